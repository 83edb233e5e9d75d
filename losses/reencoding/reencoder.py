"""A teacher's tokens, and texts that end in one, in the student's tokens.

A token whose text stands alone is looked up in a table over the teacher's whole vocabulary, made
on first use. A text of several tokens is encoded once and then remembered, whatever the document.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from losses.alignment.roles import role_partners
from losses.alignment.vocabulary import ENDS, Vocabulary

Encode: TypeAlias = Callable[[Sequence[str]], list[list[int]]]
Key: TypeAlias = tuple[bytes, int]
"""A text and the special token of the student that follows it, or ``NONE``."""

NONE = -1
REMEMBERED = 2**18
"""Texts kept beside the table: some 60 MiB."""


@dataclass(frozen=True)
class Front:
    """What stands before a token in its group, and whether its own first space is none."""

    text: bytes
    drops_space: bool


SPACE = b" "
ALONE = Front(b"", drops_space=False)


class Reencoder:
    """Numbers of re-encoded texts; ``pieces`` has the tokens of each number.

    The teacher's tokens come first, each under its own id.

    Args:
        student: the student's vocabulary.
        teacher: the teacher's.
        encode: the student's tokenizer, as in the middle of a document.
        remembered: texts kept beside the table; when they are more, all are forgotten.
    """

    def __init__(
        self,
        student: Vocabulary,
        teacher: Vocabulary,
        encode: Encode,
        remembered: int = REMEMBERED,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.remembered = remembered
        self.num_encoded = 0
        """Texts that the tokenizer was given up to now."""
        self._encode = encode
        self._numbers: dict[Key, int] = {}

    @cached_property
    def pieces(self) -> "Pieces":
        """All rows: those of the teacher's vocabulary, made here, and what was added."""
        pieces = Pieces()
        pieces.add(*self._rows([self.key(ALONE, index) for index in range(len(self.teacher))]))
        return pieces

    def key(self, front: Front, token_id: int) -> Key:
        """What a teacher token says behind this."""
        content = self.teacher.token_bytes[token_id]
        if content is not None:
            return front.text + (
                content.removeprefix(SPACE) if front.drops_space else content
            ), NONE
        return (front.text, self._ends[token_id]) if token_id in self._ends else (b"", NONE)

    @cached_property
    def _ends(self) -> dict[int, int]:
        """The teacher's ends of texts and turns that the student has too, by role."""
        partners = role_partners(self.teacher, self.student).items()
        return {i: partner for i, partner in partners if self.teacher.roles[i] in ENDS}

    @cached_property
    def is_text(self) -> Bool[np.ndarray, "teacher"]:
        """True for a teacher token that has bytes."""
        return np.array([content is not None for content in self.teacher.token_bytes], dtype=bool)

    def numbers(self, keys: Sequence[Key]) -> Int64[np.ndarray, "key"]:
        """The rows of some texts, encoding those that are new."""
        new = self._new(keys)
        if new and len(self._numbers) + len(new) > self.remembered:
            self._numbers.clear()
            self.pieces.cut(len(self.teacher))
            new = self._new(keys)
        if new:
            start = len(self.pieces)
            self.pieces.add(*self._rows(new))
            self._numbers.update(zip(new, range(start, start + len(new)), strict=True))
        known = self._numbers
        return np.fromiter((known[key] for key in keys), np.int64, len(keys))

    def _new(self, keys: Iterable[Key]) -> list[Key]:
        return [key for key in dict.fromkeys(keys) if key not in self._numbers]

    def _rows(self, keys: Sequence[Key]) -> tuple[list[list[int]], list[bool]]:
        """The student's tokens of each key, and whether they join to exactly its bytes.

        Bytes that are no text have no tokens.
        """
        texts = {content: text for content, _ in keys if (text := _text(content))}
        found = dict(zip(texts, self._encode(list(texts.values())), strict=True))
        self.num_encoded += len(texts)
        rows = [found.get(content, []) for content, _ in keys]
        exact = [self._joins(row, content) for row, (content, _) in zip(rows, keys, strict=True)]
        ends = [[] if special == NONE else [special] for _, special in keys]
        return [[*row, *end] for row, end in zip(rows, ends, strict=True)], exact

    def _joins(self, row: Sequence[int], content: bytes) -> bool:
        pieces = [self.student.token_bytes[index] for index in row]
        known = [piece for piece in pieces if piece is not None]
        return len(known) == len(pieces) and b"".join(known) == content


class Pieces:
    """Rows of token ids of unequal length, to which rows are added at the end."""

    def __init__(self) -> None:
        self._ids = np.zeros(0, dtype=np.int64)
        self._starts = np.zeros(1, dtype=np.int64)
        self._exact = np.zeros(0, dtype=bool)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: Sequence[Sequence[int]], exact: Sequence[bool]) -> None:
        """Put these rows behind the others."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter((i for row in rows for i in row), np.int64, int(lengths.sum()))
        used, count = int(self._starts[self._count]), self._count + len(rows)
        self._ids = _with_room(self._ids, used + len(ids))
        self._starts = _with_room(self._starts, count + 1)
        self._exact = _with_room(self._exact, count)
        self._ids[used : used + len(ids)] = ids
        self._starts[self._count + 1 : count + 1] = used + np.cumsum(lengths)
        self._exact[self._count : count] = exact
        self._count = count

    def cut(self, count: int) -> None:
        """Keep only the first rows."""
        self._count = count

    def lengths(self, numbers: Int64[np.ndarray, "row"]) -> Int64[np.ndarray, "row"]:
        """How many tokens the rows have."""
        lengths: Int64[np.ndarray, "row"] = self._starts[numbers + 1] - self._starts[numbers]
        return lengths

    def exact(self, numbers: Int64[np.ndarray, "row"]) -> Bool[np.ndarray, "row"]:
        """Whether the rows' tokens join to exactly the bytes that were encoded."""
        exact: Bool[np.ndarray, "row"] = self._exact[numbers]
        return exact

    def at(self, numbers: Int64[np.ndarray, "row"], place: int) -> Int64[np.ndarray, "row"]:
        """The rows' tokens at this place; each row must be longer."""
        ids: Int64[np.ndarray, "row"] = self._ids[self._starts[numbers] + place]
        return ids


def _with_room(array: Shaped[np.ndarray, "some"], size: int) -> Shaped[np.ndarray, "more"]:
    """The array, longer if it has less than ``size`` entries."""
    return array if len(array) >= size else np.resize(array, 2 * size)


def _text(content: bytes) -> str:
    """The bytes as text, empty if they are none."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""
