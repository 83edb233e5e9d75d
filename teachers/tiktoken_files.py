"""Fast tokenizers from tiktoken's rank files and Mistral's tekken files.

A rank file lists byte strings with their ids; the order of the ids is the order of the merges.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from losses.alignment.vocabulary import byte_alphabet

TEKKEN_SPECIALS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "<pad>",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
]
"""What the first ids are called in tekken files that do not say it; the rest is reserved."""


@dataclass(frozen=True)
class RankFile:
    """A byte-level tokenizer as its file has it.

    Args:
        ids: byte string -> token id; a smaller id is merged earlier.
        pattern: regular expression of the pieces that are tokenized apart.
        specials: special token -> id.
    """

    ids: Mapping[bytes, int]
    pattern: str
    specials: Mapping[str, int]


def read_ranks(path: Path) -> dict[bytes, int]:
    """Byte strings and ids of a ``.tiktoken`` file: lines of base64 and a number.

    Raises:
        ValueError: a line is something else.
    """
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            encoded, rank = line.split()
            ranks[base64.b64decode(encoded, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"{path}:{number}: {line[:40]!r} is not a tiktoken line; expected base64, a space "
                f"and an id ({error})"
            ) from error
    return ranks


def read_tekken(path: Path) -> RankFile:
    """Read a ``tekken.json``: special tokens come first, then the ranks up to the stated size."""
    file = json.loads(path.read_text(encoding="utf-8"))
    num_specials = file["config"]["default_num_special_tokens"]
    num_ranks = file["config"]["default_vocab_size"] - num_specials
    named = [entry["token_str"] for entry in file.get("special_tokens") or ()] or TEKKEN_SPECIALS
    reserved = [f"<SPECIAL_{index}>" for index in range(len(named), num_specials)]
    return RankFile(
        ids={
            base64.b64decode(entry["token_bytes"]): entry["rank"] + num_specials
            for entry in file["vocab"][:num_ranks]
        },
        pattern=file["config"]["pattern"],
        specials={token: index for index, token in enumerate([*named, *reserved])},
    )


def byte_level_bpe(file: RankFile, *, nfc: bool = False) -> FastTokenizer:
    """Build the tokenizer that encodes as tiktoken does with the same file.

    A piece that is a token is taken whole; others are merged pair by pair.

    Args:
        file: ids, pattern and special tokens.
        nfc: normalise texts to NFC first, as Qwen does.
    """
    vocab = {_written(content): index for content, index in file.ids.items()}
    merges = [(_written(left), _written(right)) for left, right in _merges(file.ids)]
    model = models.BPE(vocab | dict(file.specials), merges, ignore_merges=True)
    tokenizer = FastTokenizer(model)
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(file.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = sorted(file.specials, key=lambda token: file.specials[token])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in specials])
    return tokenizer


def _merges(ids: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that joins to a token: by the whole's id, then by the parts'."""
    ordered = []
    for content, index in ids.items():
        for cut in range(1, len(content)):
            left, right = content[:cut], content[cut:]
            if left in ids and right in ids:
                ordered.append((index, ids[left], ids[right], left, right))
    ordered.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in ordered]


@lru_cache(maxsize=1)
def _characters() -> dict[int, str]:
    return {byte: character for character, byte in byte_alphabet().items()}


def _written(content: bytes) -> str:
    """The bytes in GPT-2's printable alphabet."""
    return content.decode("latin-1").translate(_characters())
