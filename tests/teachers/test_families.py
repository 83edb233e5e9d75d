"""Every family of tokenizers, trained here: byte spans are exact or the text is refused by reason.

Texts hold spaces at both ends, literal ``▁``, byte tokens and specials, accents and emoji.
"""

import json
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from losses.alignment.vocabulary import Family, TokenKind, byte_alphabet
from losses.document import text_document
from teachers.faithfulness import LITERAL_BYTE, Reason, UnfaithfulTokenizer
from teachers.normalisation import DummyPrefix
from teachers.text_tokens import TextTokens
from teachers.tiktoken_files import RankFile, byte_level_bpe
from teachers.tokenizer import Tokenizer

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = st.characters(codec="utf-8") | st.sampled_from(
    [*" \t\n▁Ġé🙂", "  ", "<0x41>", "</s>", "<sep>", "the ", "ﬁ", "e\u0301"]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)


def byte_level(texts: Iterable[str], **options: bool) -> FastTokenizer:
    backend = FastTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(**options)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=["</s>"]
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def raw_bytes(_: Iterable[str]) -> FastTokenizer:
    backend = FastTokenizer(models.BPE({c: b for c, b in byte_alphabet().items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def ranks_of(texts: Iterable[str]) -> dict[bytes, int]:
    """Byte strings in the order in which a byte-level tokenizer learnt them."""
    vocab = byte_level(texts, add_prefix_space=False).get_vocab()
    learnt = sorted((piece for piece in vocab if piece != "</s>"), key=vocab.__getitem__)
    alphabet = byte_alphabet()
    return {bytes(alphabet[c] for c in piece): rank for rank, piece in enumerate(learnt)}


def tiktoken(texts: Iterable[str]) -> FastTokenizer:
    return byte_level_bpe(RankFile(ranks_of(texts), PATTERN, {"</s>": 450}), nfc=True)


def unigram(texts: Iterable[str], *, fallback: bool) -> FastTokenizer:
    backend = FastTokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "</s>", *(BYTE_TOKENS if fallback else [])]
    trainer = trainers.UnigramTrainer(
        vocab_size=600 if fallback else 300,
        special_tokens=specials,
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())["model"]
    pieces = [(piece, score) for piece, score in state["vocab"]]
    backend = FastTokenizer(models.Unigram(pieces, 0, byte_fallback=fallback))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    last = decoders.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), last]) if fallback else last
    backend.normalizer = None if fallback else normalizers.NFKC()
    backend.add_special_tokens(["<unk>", "</s>"])
    return backend


def llama2(texts: Iterable[str]) -> FastTokenizer:
    """SentencePiece BPE with a space put before every segment, as Llama 2 has it."""
    backend = FastTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "</s>", *BYTE_TOKENS], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())["model"]
    merges = [(left, right) for left, right in state["merges"]]
    backend = FastTokenizer(
        models.BPE(state["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    backend.add_special_tokens(["<unk>", "</s>"])
    return backend


def mistral(texts: Iterable[str]) -> FastTokenizer:
    """The same with the space put by the pre-tokenizer, at the text's beginning only."""
    backend = llama2(texts)
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


FAMILIES: dict[str, Callable[[Iterable[str]], FastTokenizer]] = {
    "gpt2": lambda texts: byte_level(texts, add_prefix_space=False),
    "byte level, prefix space": lambda texts: byte_level(texts, add_prefix_space=True),
    "raw bytes": raw_bytes,
    "tiktoken": tiktoken,
    "llama2": llama2,
    "mistral": mistral,
    "unigram": lambda texts: unigram(texts, fallback=True),
    "t5": lambda texts: unigram(texts, fallback=False),
}


@pytest.fixture(scope="module")
def families(toy_texts: list[str]) -> dict[str, Tokenizer]:
    read = {}
    for name, build in FAMILIES.items():
        backend = build(toy_texts)
        backend.add_tokens([AddedToken("<sep>", normalized=False, special=False)])
        fast = PreTrainedTokenizerFast(tokenizer_object=backend)
        read[name] = Tokenizer(fast, name)
    return read


def check_spans(tokenizer: Tokenizer, text: str, found: TextTokens, *, special: bool) -> None:
    """Spans follow one another, cover the text, and hold what each token says it is."""
    content = text.encode()
    edges = np.concatenate((found.starts, found.ends[-1:])) if len(found) else np.zeros(1)
    assert edges[0] == 0
    assert edges[-1] == len(content)
    assert found.starts[1:].tolist() == found.ends[:-1].tolist()
    for index, start, end in zip(found.ids, found.starts, found.ends, strict=True):
        said = tokenizer.vocabulary.token_bytes[index]
        if said is None:
            assert special
            said = tokenizer.fast.convert_ids_to_tokens(int(index)).encode()
        assert content[start:end] in (said, said.removeprefix(b" "))


def expected_reasons(tokenizer: Tokenizer, text: str) -> set[str]:
    """Every reason that may be given; none: the text must be read."""
    reasons = set()
    if tokenizer.normalisation.normalised(text) != text:
        reasons.add(Reason.NORMALISER)
    if tokenizer.family is not Family.BYTE_LEVEL and "▁" in text:
        reasons.add(Reason.METASPACE)
    if tokenizer.name == "unigram" and LITERAL_BYTE.search(text):
        reasons.add(Reason.LITERAL_BYTE)
    if tokenizer.name in ("unigram", "t5") and "</s>" in text:
        reasons.add(Reason.SPECIAL_TOKEN)
    if tokenizer.name in ("unigram", "t5") and "<unk>" in text:
        reasons.add(Reason.UNKNOWN_TOKEN)
    return reasons


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
@given(texts=st.lists(TEXTS, max_size=4))
def test_spans_are_exact_or_the_text_is_refused(families, name, texts, special):
    tokenizer = families[name]
    for text, found in zip(texts, tokenizer.encode_text(texts, parse_special=special), strict=True):
        if isinstance(found, TextTokens):
            check_spans(tokenizer, text, found, special=special)
        elif name == "t5":
            assert found.reason in {Reason.UNKNOWN_TOKEN, *expected_reasons(tokenizer, text)}
        else:
            assert found.reason in expected_reasons(tokenizer, text)


@pytest.mark.parametrize("name", FAMILIES)
@given(text=TEXTS)
def test_one_text_or_many_is_the_same(families, name, text):
    tokenizer = families[name]
    alone = tokenizer.encode_text([text])[0]
    among = tokenizer.encode_text(["a▁", text, "", "other <sep> text", text])
    for found in (among[1], among[4]):
        assert type(found) is type(alone)
        if isinstance(found, TextTokens) and isinstance(alone, TextTokens):
            for field in ("ids", "starts", "ends"):
                assert getattr(found, field).tolist() == getattr(alone, field).tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_the_tokenizers_own(families, name):
    tokenizer = families[name]
    text = "the value of an object</s> is 12345 "
    fast = tokenizer.fast
    own = {
        special: fast(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        for special in (False, True)
    }
    for special, ids in own.items():
        [found] = tokenizer.encode_text([text], parse_special=special)
        if isinstance(found, TextTokens):
            assert found.ids.tolist() == ids
        else:
            assert (name, special) in {("unigram", False), ("t5", False)}


@pytest.mark.parametrize(
    ("name", "prefix", "family"),
    [
        ("gpt2", DummyPrefix.NONE, Family.BYTE_LEVEL),
        ("byte level, prefix space", DummyPrefix.IF_MISSING, Family.BYTE_LEVEL),
        ("raw bytes", DummyPrefix.NONE, Family.BYTE_LEVEL),
        ("tiktoken", DummyPrefix.NONE, Family.BYTE_LEVEL),
        ("llama2", DummyPrefix.ALWAYS, Family.SENTENCEPIECE),
        ("mistral", DummyPrefix.IF_MISSING, Family.SENTENCEPIECE),
        ("unigram", DummyPrefix.IF_MISSING, Family.SENTENCEPIECE),
        ("t5", DummyPrefix.IF_MISSING, Family.METASPACE),
    ],
)
def test_what_is_read_from_the_tokenizer(families, name, prefix, family):
    tokenizer = families[name]
    assert (tokenizer.normalisation.prefix, tokenizer.family) == (prefix, family)
    steps = {"tiktoken": ("NFC",), "t5": ("NFKC",)}.get(name, ())
    assert tokenizer.normalisation.steps == steps
    if family is Family.BYTE_LEVEL:
        assert tokenizer.vocabulary.missing_bytes == ()


@pytest.mark.parametrize("name", ["byte level, prefix space", "llama2", "mistral", "unigram", "t5"])
def test_the_artificial_space_has_no_width(families, name):
    tokenizer = families[name]
    [tokens] = tokenizer.encode([text_document("d", "the the")])
    start = 0 if tokenizer.start_id is None else 1
    first = tokenizer.vocabulary.token_bytes[tokens.ids[start]] or b""
    assert first[:1] == b" "
    assert tokens.byte_ends[start] == (len(first) - 1 or -1)
    assert tokens.byte_ends[-1] == 7


@pytest.mark.parametrize("name", ["byte level, prefix space", "llama2", "unigram", "t5"])
def test_the_space_after_an_added_token_is_dropped_too(families, name):
    tokenizer = families[name]
    [found] = tokenizer.encode_text(["a<sep>the"])
    assert isinstance(found, TextTokens)
    joined = b"".join(tokenizer.vocabulary.token_bytes[i] or b"" for i in found.ids)
    assert joined == b" a<sep> the"
    assert found.ends[-1] == 9
    place = tokenizer.vocabulary.ids_of(b"<sep>")[0]
    at = found.ids.tolist().index(place)
    assert (found.starts[at], found.ends[at]) == (1, 6)
    assert tokenizer.vocabulary.kind_of(place) is TokenKind.ADDED


def test_space_that_is_the_texts_own_counts(families):
    for name in ("byte level, prefix space", "mistral", "unigram"):
        [found] = families[name].encode_text([" the"])
        assert isinstance(found, TextTokens)
        assert found.starts[0] == 0
        assert (found.ends - found.starts).sum() == 4


def test_unknown_characters_are_refused_by_reason(families):
    [found] = families["t5"].encode_text(["snow ☃"], names=["train.jsonl:3"])
    assert isinstance(found, UnfaithfulTokenizer)
    assert found.reason == "unknown token"
    assert str(found).startswith("train.jsonl:3: the tokens of t5 do not join to its bytes: unkn")


def test_a_swallowing_special_token_leaves_a_gap(fast_tokenizers):
    backend = FastTokenizer.from_str(fast_tokenizers["bytelevel"].backend_tokenizer.to_str())
    mask = AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False, special=True)
    backend.add_special_tokens([mask])
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "t")
    [found] = tokenizer.encode_text(["ab \n<mask>  cd"], parse_special=True)
    assert isinstance(found, TextTokens)
    at = found.ids.tolist().index(backend.token_to_id("<mask>"))
    assert (found.starts[at], found.ends[at]) == (4, 10)
    assert (found.ends[at - 1], found.starts[at + 1]) == (2, 12)
