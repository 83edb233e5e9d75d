"""Which bytes each token id stands for.

``bytes_of_piece`` holds the rule of each tokenizer family; ``Vocabulary`` is the exact table.
Special tokens have no bytes: they stand for a role, never for a string.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int64

from losses.alignment.byte_table import ByteTable

BORDER_BYTES = b" \n\t"
ENDS = ("end", "end_of_turn")
"""Roles of the tokens that end a text and that close an assistant's turn; see ``roles``."""
METASPACE = "▁"


class Family(StrEnum):
    """How a tokenizer writes bytes into its vocabulary strings."""

    BYTE_LEVEL = "byte_level"
    """GPT-2's printable alphabet, one character a byte; also tiktoken and raw bytes."""
    SENTENCEPIECE = "sentencepiece"
    """Text with ``▁`` for a space, and ``<0xHH>`` for a byte without a piece."""
    METASPACE = "metaspace"
    """Text with ``▁`` for a space; what has no piece becomes the unknown token."""


class TokenKind(StrEnum):
    """What an id stands for."""

    TEXT = "text"
    ADDED = "added"
    """Text that is cut out before the model of the tokenizer sees it."""
    SPECIAL = "special"
    """A role, no bytes."""
    UNUSED = "unused"
    """An id below the largest one to which the tokenizer gives no token."""


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
    if family is Family.BYTE_LEVEL:
        return _byte_level_bytes(piece)
    if family is Family.SENTENCEPIECE and _BYTE_FALLBACK.fullmatch(piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(METASPACE, " ").encode()


@dataclass(frozen=True)
class Vocabulary:
    """Bytes of every token id; ``None`` marks an id without bytes: special or unused.

    Rows that a model's head has beyond the largest id are padding and no ids.

    Args:
        token_bytes: indexed by token id.
        roles: special token id -> role (``start``, ``end``, ``pad``, ``unknown``,
            ``end_of_turn`` or ``other``); one that ends both texts and turns is ``end_of_turn``.
        added: ids of added tokens that are text.
    """

    token_bytes: tuple[bytes | None, ...]
    roles: dict[int, str] = field(default_factory=dict)
    added: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.token_bytes)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def kind_of(self, token_id: int) -> TokenKind:
        """Whether an id is text, added text, special or unused.

        >>> [Vocabulary((b"a", None, None), {1: "end"}).kind_of(i).value for i in range(3)]
        ['text', 'special', 'unused']
        """
        if self.token_bytes[token_id] is not None:
            return TokenKind.ADDED if token_id in self.added else TokenKind.TEXT
        return TokenKind.SPECIAL if token_id in self.roles else TokenKind.UNUSED

    def ids_of(self, content: bytes) -> tuple[int, ...]:
        """Every id with exactly these bytes, smallest first; a byte string may have several.

        >>> Vocabulary((b"a", b"b", b"a", None)).ids_of(b"a")
        (0, 2)
        """
        return self._ids_by_bytes.get(content, ())

    @cached_property
    def _ids_by_bytes(self) -> dict[bytes, tuple[int, ...]]:
        found: dict[bytes, tuple[int, ...]] = {}
        for index, content in enumerate(self.token_bytes):
            if content is not None:
                found[content] = (*found.get(content, ()), index)
        return found

    @cached_property
    def byte_table(self) -> ByteTable:
        """The same bytes as one array."""
        return ByteTable.of(self.token_bytes)

    @cached_property
    def partial_ids(self) -> Int64[np.ndarray, "partial"]:
        """Ids whose bytes are not whole UTF-8 characters."""
        ids = [i for i, b in enumerate(self.token_bytes) if b is not None and not _is_utf8(b)]
        return np.asarray(ids, dtype=np.int64)

    @property
    def missing_bytes(self) -> tuple[int, ...]:
        """Byte values that no token stands for alone: not every byte string can be written.

        >>> Vocabulary(tuple(bytes([b]) for b in range(255))).missing_bytes
        (255,)
        """
        return tuple(byte for byte in range(256) if not self.ids_of(bytes([byte])))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all ids' bytes and roles: equal means the same vocabulary."""
        return _digest(self.token_bytes, self.roles)

    @cached_property
    def ids_fingerprint(self) -> str:
        """SHA-256 over what the ids stand for, whichever of the special tokens ends what.

        That is up to the chat template, so two models with the same ids may differ in it.

        >>> ids = (b"a", None, None)
        >>> base, chat = Vocabulary(ids, {1: "end", 2: "other"}), {1: "end", 2: "end_of_turn"}
        >>> base.ids_fingerprint == Vocabulary(ids, chat).ids_fingerprint
        True
        """
        kinds = {i: "other" if role in ENDS else role for i, role in self.roles.items()}
        return _digest(self.token_bytes, kinds)

    @cached_property
    def border_ids(self) -> Int64[np.ndarray, "border"]:
        """Ids that begin a new word: first byte is space, newline or tab, and the specials.

        Source: ALM's outcome debiasing, Minixhofer et al. 2025, arXiv:2503.20083, section 3.1.
        """
        ids = [i for i, b in enumerate(self.token_bytes) if b is None or b[:1] in _BORDERS]
        return np.asarray(ids, dtype=np.int64)


def _digest(token_bytes: Sequence[bytes | None], roles: Mapping[int, str]) -> str:
    sha = hashlib.sha256()
    for index, content in enumerate(token_bytes):
        text = b"\0" + roles.get(index, "unused").encode() if content is None else content
        sha.update(f"{index}:{content is None}:{len(text)}:".encode() + text)
    return sha.hexdigest()


_BYTE_FALLBACK = re.compile("<0x[0-9A-Fa-f]{2}>")
_BORDERS = {bytes([byte]) for byte in BORDER_BYTES}


@lru_cache(maxsize=1)
def _to_latin1() -> dict[int, str]:
    """The alphabet's characters to those of the same byte value; all others to one above."""
    foreign = dict.fromkeys(range(256), "\uffff")
    return foreign | {ord(character): chr(byte) for character, byte in byte_alphabet().items()}


def _byte_level_bytes(piece: str) -> bytes:
    try:
        return piece.translate(_to_latin1()).encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"vocabulary entry {piece!r} holds {piece[error.start]!r}, which is not in the "
            "byte-level alphabet; the tokenizer is not byte-level or the entry is an added token"
        ) from error


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
