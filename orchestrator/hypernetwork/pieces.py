"""How the model's own tokenizer spells tokens of another vocabulary."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

from losses.alignment.trie import Trie
from teachers.inside import encode_inside
from teachers.tokenizer import Tokenizer

Pieces: TypeAlias = tuple[int, ...]
"""Ids of the model's own vocabulary; one beyond it stands for the row of a single byte."""


class Speller:
    """Spells byte strings in the pieces of one tokenizer, and remembers what it spelled.

    A byte string that the tokenizer has as one token is that token. Other text is what the
    tokenizer makes of it in the middle of a document. What is no text (a part of a character) or
    does not come back exactly is cut greedily into the longest tokens, and where that fails, into
    single bytes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._vocabulary = tokenizer.vocabulary
        self._known: dict[bytes, Pieces] = {}

    def spell(self, contents: Sequence[bytes]) -> list[Pieces]:
        """The pieces of each byte string; at least one.

        Raises:
            ValueError: a byte string is empty.
        """
        new = [content for content in dict.fromkeys(contents) if content not in self._known]
        if b"" in new:
            raise ValueError("an empty token has no pieces; expected at least one byte")
        self._known |= self._encoded(new)
        left = [content for content in new if content not in self._known]
        self._known |= zip(left, self._covers(left), strict=True)
        return [self._known[content] for content in contents]

    def _encoded(self, contents: Sequence[bytes]) -> dict[bytes, Pieces]:
        """Those that the tokenizer reads exactly, or that are one token all the same."""
        texts = {content: text for content in contents if (text := _text(content)) is not None}
        rows = encode_inside(self.tokenizer, list(texts.values()))
        encoded = dict(zip(texts, map(tuple, rows), strict=True))
        exact = {content: ids for content, ids in encoded.items() if self._join(ids) == content}
        found = {}
        for content in contents:
            ids, whole = exact.get(content, ()), self._vocabulary.ids_of(content)[:1]
            if chosen := ids if len(ids) == 1 else whole or ids:
                found[content] = chosen
        return found

    def _covers(self, contents: Sequence[bytes]) -> Iterator[Pieces]:
        """Greedy longest tokens, or single bytes."""
        if not contents:
            return
        rows = self._trie.cover(contents, max(map(len, contents)))
        for content, row in zip(contents, rows, strict=True):
            ids = tuple(row[row >= 0].tolist())
            yield ids if self._join(ids) == content else tuple(map(self._byte, content))

    @cached_property
    def _trie(self) -> Trie:
        return Trie.build(self._vocabulary)

    def _join(self, ids: Iterable[int]) -> bytes | None:
        """The pieces' bytes; None if one is a special token."""
        parts = [self._vocabulary.token_bytes[index] for index in ids]
        return None if None in parts else b"".join(part or b"" for part in parts)

    def _byte(self, value: int) -> int:
        found = self._vocabulary.ids_of(bytes([value]))
        return found[0] if found else len(self._vocabulary) + value


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
