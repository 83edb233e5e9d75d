"""Vocabularies drawn from text: frequent substrings of words, noised, as a Unigram model.

Source: Minixhofer et al. 2024, arXiv:2405.07883, section 3.1 and algorithm 1.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from jaxtyping import Float64
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from losses.alignment.vocabulary import byte_alphabet
from losses.document import Document
from orchestrator.hypernetwork.config import SamplingConfig
from teachers.tokenizer import Tokenizer

WHITE_SPACE = "ĠĊĉ"
"""Space, line break and tab in the alphabet of byte-level tokenizers."""


@dataclass(frozen=True)
class Substrings:
    """Substrings of words, sorted, and their shares.

    A share is occurrences times length, over the sum of those of all substrings. ``smallest`` is
    the least share; single bytes and double white space have no place in the list.
    """

    names: tuple[str, ...]
    shares: Float64[np.ndarray, "substring"]
    smallest: float

    @classmethod
    def of(cls, words: Counter[str], max_bytes: int, stride: int) -> "Substrings":
        r"""Count them.

        >>> found = Substrings.of(Counter({"aab": 2}), max_bytes=2, stride=1)
        >>> found.names, found.shares.round(3).tolist(), round(found.smallest, 3)
        (('aa', 'ab'), [0.286, 0.286], 0.143)
        """
        scores: dict[str, int] = {}
        for word, count in words.items():
            for part in _substrings(word, max_bytes, stride):
                scores[part] = scores.get(part, 0) + count * len(part)
        total = sum(scores.values())
        names = tuple(sorted(part for part in scores if _is_free(part)))
        shares = np.array([scores[name] / total for name in names], dtype=np.float64)
        return cls(names, shares, min(scores.values(), default=1) / max(1, total))


class TokenizerSampler:
    """Draws tokenizers; a pure function of the documents, the options and the generator.

    Args:
        options: sizes and noise.
        source: the model's own tokenizer, whose special tokens and chat template are taken over.
    """

    def __init__(self, options: SamplingConfig, source: Tokenizer) -> None:
        self.options = options
        self.source = source
        self._words: dict[str, Counter[str]] = {}

    def substrings(self, documents: Sequence[Document]) -> Substrings:
        """What vocabularies are drawn from."""
        words: Counter[str] = Counter()
        for document in documents:
            words.update(self._words_of(document))
        return Substrings.of(words, self.options.max_bytes, self.options.stride)

    def sample(self, substrings: Substrings, rng: np.random.Generator) -> Tokenizer:
        """A tokenizer whose tokens are likely substrings; it has every byte."""
        return self._tokenizer(draw_pieces(substrings, self.options, rng))

    def _words_of(self, document: Document) -> Counter[str]:
        """How often each word is in the document, counted once."""
        if document.digest not in self._words:
            contents = (segment.content.decode(errors="ignore") for segment in document.segments)
            self._words[document.digest] = words_of(contents)
        return self._words[document.digest]

    def _tokenizer(self, pieces: Sequence[tuple[str, float]]) -> Tokenizer:
        special = {token.content for token in self._special_tokens}
        backend = FastTokenizer(Unigram([(p, score) for p, score in pieces if p not in special]))
        backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
        backend.decoder = ByteLevelDecoder()
        backend.add_special_tokens(self._special_tokens)
        own, chat = self.source.fast, self.source.chat
        fast = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token=own.bos_token,
            eos_token=own.eos_token,
            pad_token=own.pad_token,
            unk_token=own.unk_token,
            clean_up_tokenization_spaces=False,
        )
        fast.chat_template = own.chat_template
        start = self.source.start_id
        return Tokenizer(
            fast,
            "sampled",
            None if start is None else str(own.convert_ids_to_tokens(start)),
            "plain" if chat.is_plain else None,
        )

    @cached_property
    def _special_tokens(self) -> list[AddedToken]:
        added = self.source.backend.get_added_tokens_decoder()
        return [token for _, token in sorted(added.items()) if token.special]


def words_of(texts: Iterable[str]) -> Counter[str]:
    """How often each word of GPT-2's pattern occurs, one letter a byte.

    >>> words_of(["a cat, a café"])["Ġa"], words_of(["é"]).most_common()
    (1, [('Ã©', 1)])
    """
    cut = ByteLevel(add_prefix_space=False)
    return Counter(word for text in texts for word, _ in cut.pre_tokenize_str(text))


@lru_cache(maxsize=1 << 18)
def _substrings(word: str, max_bytes: int, stride: int) -> tuple[str, ...]:
    """Substrings that begin at every so many characters (not bytes) of the word."""
    starts = [place for place, letter in enumerate(word) if letter not in _inside_character()]
    return tuple(
        word[start:end]
        for start in starts[::stride]
        for end in range(start + 1, min(start + max_bytes, len(word)) + 1)
    )


@lru_cache(maxsize=1)
def _inside_character() -> frozenset[str]:
    """Letters of the bytes that continue a UTF-8 character."""
    return frozenset(letter for letter, byte in byte_alphabet().items() if 0x80 <= byte < 0xC0)


def draw_pieces(
    substrings: Substrings, options: SamplingConfig, rng: np.random.Generator
) -> list[tuple[str, float]]:
    """A vocabulary with log scores: all bytes, runs of white space, then the best substrings.

    A byte has the smallest share that any substring has, a run of white space the log score 0.
    The others have the logarithm of their share after noise; those with nothing left are out.
    """
    drawn = [(letter, math.log(substrings.smallest)) for letter in byte_alphabet()]
    drawn += [(run, 0.0) for run in _runs(options.max_bytes)]
    noise = rng.normal(size=len(substrings.names)) * _noise(options, rng)
    shares = substrings.shares + noise
    best = np.argsort(-shares, kind="stable")[: max(0, options.vocab_size - len(drawn))]
    kept = best[shares[best] > 0].tolist()
    return drawn + [(substrings.names[index], math.log(shares[index])) for index in kept]


def _noise(options: SamplingConfig, rng: np.random.Generator) -> float:
    return options.noise_median * math.exp(options.noise_sigma * rng.normal())


def _runs(max_bytes: int) -> list[str]:
    """One white space, then one or more equal ones."""
    lengths = range(1, max_bytes)
    return [first + rest * n for rest, n, first in product(WHITE_SPACE, lengths, WHITE_SPACE)]


def _is_free(part: str) -> bool:
    """True for what is neither a single byte nor has two white spaces."""
    return len(part) > 1 and sum(letter in WHITE_SPACE for letter in part) < 2
