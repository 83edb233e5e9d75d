"""An old and a new vocabulary, and which of their tokens stand for the same bytes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from losses.alignment.projection_build import exact_matches
from losses.alignment.vocabulary import Vocabulary

Encode: TypeAlias = Callable[[Sequence[str]], Iterable[Sequence[int]]]
"""Texts to token ids, as inside a document and with special strings read as text."""

Row: TypeAlias = Mapping[int, float]
"""Old rows and their weights in one new row."""


@dataclass(frozen=True)
class Overlap:
    """Which new tokens an old one stands for exactly.

    Args:
        copied: new token -> old token of the same bytes.
        new: tokens without an old one. A token that its tokenizer never writes, since it writes
            another one of the same bytes, is in neither unless the old vocabulary has one too:
            a copy would share the other one's probability.
    """

    copied: Mapping[int, int]
    new: Sequence[int]

    @property
    def rows(self) -> dict[int, Row]:
        """The rows of what is copied."""
        return {index: {old: 1.0} for index, old in self.copied.items()}


@dataclass(frozen=True)
class VocabularyPair:
    """The old vocabulary (source), the new one (target), and how both tokenizers cut texts."""

    source: Vocabulary
    target: Vocabulary
    encode_source: Encode
    encode_target: Encode

    @cached_property
    def overlap(self) -> Overlap:
        """Equal bytes; of several tokens of equal bytes the written one goes to the written one.

        >>> source = Vocabulary((b"a", b"b", None))
        >>> pair = VocabularyPair(source, Vocabulary((b"ab", b"b")), nothing, nothing)
        >>> dict(pair.overlap.copied), pair.overlap.new
        ({1: 1}, [0])
        """
        written = exact_matches(self.target, self.target, self.encode_target)
        exact = exact_matches(self.target, self.source, self.encode_source)
        copied: dict[int, int] = {}
        new = []
        for index, content in enumerate(self.target.token_bytes):
            if content and written[index] != index:
                spare = _others(self.source.ids_of(content), int(exact[index]))
                rank = _others(self.target.ids_of(content), int(written[index])).index(index)
                copied |= {index: spare[rank]} if rank < len(spare) else {}
            elif content and exact[index] >= 0:
                copied[index] = int(exact[index])
            elif content:
                new.append(index)
        return Overlap(copied, new)

    def bytes_of(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of new tokens."""
        return [self.target.token_bytes[index] or b"" for index in ids]


def nothing(texts: Sequence[str]) -> list[Sequence[int]]:
    """An encoder that is never asked in earnest."""
    return [()] * len(texts)


def _others(ids: Sequence[int], one: int) -> list[int]:
    return [index for index in ids if index != one]
