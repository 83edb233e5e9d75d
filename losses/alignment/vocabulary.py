"""Which bytes each token id stands for.

``bytes_of_piece`` holds the rule of each tokenizer family; ``Vocabulary`` is the exact table.
Special tokens have no bytes: they stand for a role, never for a string.
"""

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int64

BORDER_BYTES = b" \n\t"


class Family(StrEnum):
    """How a tokenizer writes bytes into its vocabulary strings."""

    BYTE_LEVEL = "byte_level"
    SENTENCEPIECE = "sentencepiece"


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable alphabet: one character for each of the 256 bytes.

    >>> byte_alphabet()["Ġ"], byte_alphabet()["Ċ"], byte_alphabet()["a"]
    (32, 10, 97)
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def bytes_of_piece(piece: str, family: Family) -> bytes:
    r"""Bytes of a regular vocabulary string.

    Raises:
        ValueError: a byte-level piece holds a character outside the alphabet.

    >>> bytes_of_piece("Ġhi", Family.BYTE_LEVEL), bytes_of_piece("▁hi", Family.SENTENCEPIECE)
    (b' hi', b' hi')
    >>> bytes_of_piece("<0x0A>", Family.SENTENCEPIECE)
    b'\n'
    """
    if family is Family.SENTENCEPIECE:
        if _BYTE_FALLBACK.fullmatch(piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()
    alphabet = byte_alphabet()
    if unknown := [character for character in piece if character not in alphabet]:
        raise ValueError(
            f"vocabulary entry {piece!r} holds {unknown[0]!r}, which is not in the byte-level "
            "alphabet; the tokenizer is not byte-level or the entry is an added token"
        )
    return bytes(alphabet[character] for character in piece)


@dataclass(frozen=True)
class Vocabulary:
    """Bytes of every token id; ``None`` marks a special token, whose role is in ``roles``.

    Args:
        token_bytes: indexed by token id.
        roles: special token id -> role (``start``, ``end``, ``pad``, ``unknown`` or ``other``).
    """

    token_bytes: tuple[bytes | None, ...]
    roles: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all ids' bytes and roles: equal means the same vocabulary."""
        sha = hashlib.sha256()
        for index, content in enumerate(self.token_bytes):
            text = b"\0" + self.roles.get(index, "other").encode() if content is None else content
            sha.update(f"{index}:{content is None}:{len(text)}:".encode() + text)
        return sha.hexdigest()

    @cached_property
    def border_ids(self) -> Int64[np.ndarray, "border"]:
        """Ids that begin a new word: first byte is space, newline or tab, and the specials.

        Source: ALM's outcome debiasing, Minixhofer et al. 2025, arXiv:2503.20083, section 3.1.
        """
        ids = [i for i, b in enumerate(self.token_bytes) if b is None or b[:1] in _BORDERS]
        return np.asarray(ids, dtype=np.int64)


_BYTE_FALLBACK = re.compile("<0x[0-9A-Fa-f]{2}>")
_BORDERS = {bytes([byte]) for byte in BORDER_BYTES}
