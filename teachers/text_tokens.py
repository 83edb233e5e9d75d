"""Byte spans of tokens in the text they came from, for many texts at once.

The joined bytes of a text's tokens must be the text, apart from the spaces that some tokenizers
put before a text or after an added token. Whole batches are compared as arrays; only a text that
differs is looked at segment by segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int64

from losses.alignment.byte_table import ByteTable
from teachers.normalisation import DummyPrefix

SPACE = ord(" ")


@dataclass(frozen=True)
class TextTokens:
    """Token ids and the bytes of the text that each covers.

    A space that the tokenizer puts before the text, or after an added token, is not counted: the
    token that begins with it is one byte narrower. A special token read from the text covers its
    literal string.
    """

    ids: Int64[np.ndarray, "token"]
    starts: Int64[np.ndarray, "token"]
    ends: Int64[np.ndarray, "token"]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AddedTokens:
    """Added tokens cut a text into segments before anything else sees it.

    Args:
        ids: all of them, text or special.
        swallows: ids that also take the white space (before them, after them).
    """

    ids: frozenset[int]
    swallows: dict[int, tuple[bool, bool]]


@dataclass(frozen=True)
class Spans:
    """Finds where each token lies.

    Args:
        table: bytes of every id; zero width where an id is nothing in the text.
        prefix: when the tokenizer puts a space before a segment.
        added: tokens that end a segment.
    """

    table: ByteTable
    prefix: DummyPrefix
    added: AddedTokens

    def locate(
        self, rows: Sequence[Sequence[int]], contents: Sequence[bytes]
    ) -> list[TextTokens | None]:
        """Each text's tokens with their spans; None where they do not join to the text."""
        counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(counts.sum()))
        bounds = np.concatenate(([0], np.cumsum(counts)))
        starts, widths = self.table.starts[ids], self.table.widths[ids]
        self._drop_prefixes(contents, bounds, starts, widths)
        reached = np.concatenate(([0], np.cumsum(widths)))
        exact = self._exact(contents, bounds, starts, widths)
        found: list[TextTokens | None] = []
        for row, content in enumerate(contents):
            low, high = bounds[row], bounds[row + 1]
            if exact[row]:
                offsets = reached[low : high + 1] - reached[low]
                found.append(TextTokens(ids[low:high].copy(), offsets[:-1], offsets[1:]))
            else:
                found.append(self._by_segment(ids[low:high], content))
        return found

    def _drop_prefixes(
        self,
        contents: Sequence[bytes],
        bounds: Int64[np.ndarray, "bound"],
        starts: Int64[np.ndarray, "token"],
        widths: Int64[np.ndarray, "token"],
    ) -> None:
        """Take the artificial space off each text's first token, in place."""
        if self.prefix is DummyPrefix.NONE:
            return
        put = np.fromiter(map(self.prefix.is_put_before, contents), dtype=bool)
        first = bounds[:-1][put & (np.diff(bounds) > 0)]
        first = first[widths[first] > 0]
        first = first[self.table.content[starts[first]] == SPACE]
        starts[first] += 1
        widths[first] -= 1

    def _exact(
        self,
        contents: Sequence[bytes],
        bounds: Int64[np.ndarray, "bound"],
        starts: Int64[np.ndarray, "token"],
        widths: Int64[np.ndarray, "token"],
    ) -> Bool[np.ndarray, "row"]:
        """Whether a row's pieces join to its text."""
        reached = np.concatenate(([0], np.cumsum(widths)))[bounds]
        lengths = np.fromiter(map(len, contents), dtype=np.int64, count=len(contents))
        exact: Bool[np.ndarray, "row"] = np.diff(reached) == lengths
        if not exact.all():
            of_exact = np.repeat(exact, np.diff(bounds))
            starts, widths = starts[of_exact], widths[of_exact]
        rows = np.flatnonzero(exact)
        text = np.frombuffer(b"".join(contents[row] for row in rows.tolist()), dtype=np.uint8)
        differs = np.flatnonzero(self.table.gather(starts, widths) != text)
        exact[rows[np.searchsorted(np.cumsum(lengths[rows]), differs, side="right")]] = False
        return exact

    def _by_segment(self, ids: Int64[np.ndarray, "token"], content: bytes) -> TextTokens | None:
        """The same for one text, placing the segments between added tokens one after another."""
        cuts = np.flatnonzero(self._is_added[ids])
        if not len(cuts):
            return None
        walk = _Walk(self, content)
        low = 0
        for cut in cuts.tolist():
            if not (walk.take_segment(ids[low:cut]) and walk.take_added(int(ids[cut]))):
                return None
            low = cut + 1
        if not walk.take_segment(ids[low:]) or walk.position != len(content):
            return None
        return walk.tokens(ids)

    @cached_property
    def _is_added(self) -> Bool[np.ndarray, "id"]:
        flags = np.zeros(len(self.table.widths), dtype=bool)
        flags[list(self.added.ids)] = True
        return flags


class _Walk:
    """Places segments and added tokens one after another along a text."""

    def __init__(self, spans: Spans, content: bytes) -> None:
        self.spans = spans
        self.content = content
        self.position = 0
        self._starts: list[Int64[np.ndarray, "part"]] = []
        self._ends: list[Int64[np.ndarray, "part"]] = []

    def take_segment(self, ids: Int64[np.ndarray, "part"]) -> bool:
        """Place the tokens between two added ones; False if the text goes on differently."""
        if not len(ids):
            return True
        table = self.spans.table
        joined = table.gather(table.starts[ids], table.widths[ids]).tobytes()
        for dropped in self.spans.prefix.widths_tried(joined):
            if self.content.startswith(joined[dropped:], self.position):
                ends = np.maximum(np.cumsum(table.widths[ids]) - dropped, 0)
                starts = np.concatenate(([0], ends[:-1]))
                self._starts.append(starts + self.position)
                self._ends.append(ends + self.position)
                self.position += int(ends[-1])
                return True
        return False

    def take_added(self, token_id: int) -> bool:
        """Place an added token, and skip the white space that it swallows."""
        before, after = self.spans.added.swallows.get(token_id, (False, False))
        if before:
            self._skip_space()
        table = self.spans.table
        low, width = int(table.starts[token_id]), int(table.widths[token_id])
        if not self.content.startswith(table.content[low : low + width].tobytes(), self.position):
            return False
        self._starts.append(np.asarray([self.position], dtype=np.int64))
        self.position += width
        self._ends.append(np.asarray([self.position], dtype=np.int64))
        if after:
            self._skip_space()
        return True

    def tokens(self, ids: Int64[np.ndarray, "token"]) -> TextTokens:
        """Everything placed so far."""
        return TextTokens(ids.copy(), np.concatenate(self._starts), np.concatenate(self._ends))

    def _skip_space(self) -> None:
        rest = self.content[self.position :].decode(errors="ignore")
        self.position += len(rest.encode()) - len(rest.lstrip().encode())
