"""Chats on the document's bytes: templates have no width, an end of turn has one byte.

The document's bytes are its contents joined, each assistant's followed by ``END_OF_TURN``.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from losses.alignment.tokens import Tokens
from losses.document import CHAT_ROLES, Document
from teachers.chat import Rendering
from teachers.text_tokens import TextTokens

END_OF_TEXT = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Cover:
    """The content bytes that each token covers, counted over all contents.

    Args:
        starts: bytes of contents before the token.
        ends: bytes of contents up to its end.
    """

    starts: Int64[np.ndarray, "token"]
    ends: Int64[np.ndarray, "token"]

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "token"]:
        """How many content bytes each token covers."""
        sizes: Int64[np.ndarray, "token"] = np.subtract(self.ends, self.starts)
        return sizes


@dataclass(frozen=True)
class Layout:
    """Where a chat's contents lie in its rendering and on the document's bytes.

    Args:
        starts: offset of each content in the rendering.
        sizes: its bytes.
        marks: 1 if the byte ``END_OF_TURN`` follows it in the document, else 0.
    """

    starts: Int64[np.ndarray, "message"]
    sizes: Int64[np.ndarray, "message"]
    marks: Int64[np.ndarray, "message"]

    @classmethod
    def of(cls, document: Document, rendering: Rendering) -> "Layout":
        """The layout of a rendered document."""
        sizes, marks = [], []
        for segment in document.segments:
            if segment.role in CHAT_ROLES:
                sizes.append(len(segment.content))
                marks.append(0)
            else:
                marks[-1] = 1
        starts = np.asarray(rendering.starts, dtype=np.int64)
        return cls(starts, np.asarray(sizes, np.int64), np.asarray(marks, np.int64))

    @cached_property
    def _before(self) -> Int64[np.ndarray, "message"]:
        """Content bytes before each message."""
        return _sums_before(self.sizes)

    @cached_property
    def _marks_before(self) -> Int64[np.ndarray, "message"]:
        return _sums_before(self.marks)

    def cover(self, found: TextTokens) -> "Cover":
        """Which content bytes each token covers."""
        return Cover(self._num_before(found.starts), self._num_before(found.ends))

    def tokens(
        self, found: TextTokens, cover: "Cover", special: Bool[np.ndarray, "token"]
    ) -> Tokens:
        """The tokens on the document's bytes.

        The end of a turn is the first special token after the content and before the next one.
        Without such a token its byte goes to the next token, or the last one, which straddles.
        """
        inside = cover.sizes > 0
        last = self._message_of(cover.ends - 1)
        straddles = inside & (cover.sizes < found.ends - found.starts)
        byte_ends = np.where(inside, cover.ends + self._marks_before[last], -1)
        for message in np.flatnonzero(self.marks).tolist():
            self._place_end(message, found, special, byte_ends, straddles)
        return Tokens(found.ids, byte_ends, np.flatnonzero(straddles))

    def _place_end(
        self,
        message: int,
        found: TextTokens,
        special: Bool[np.ndarray, "token"],
        byte_ends: Int64[np.ndarray, "token"],
        straddles: Bool[np.ndarray, "token"],
    ) -> None:
        """Give the byte of the end of a turn to a token, in place."""
        content_end = self.starts[message] + self.sizes[message]
        is_last = message + 1 == len(self.starts)
        limit = END_OF_TEXT if is_last else self.starts[message + 1]
        end = self._before[message] + self.sizes[message] + self._marks_before[message] + 1
        between = (found.starts >= content_end) & (found.ends <= limit) & special
        if between.any():
            byte_ends[np.argmax(between)] = end
            return
        token = min(int(np.searchsorted(found.ends, content_end, side="right")), len(found) - 1)
        byte_ends[token] = max(byte_ends[token], end)
        straddles[token] = True

    def _num_before(self, positions: Int64[np.ndarray, "token"]) -> Int64[np.ndarray, "token"]:
        """Content bytes before each position of the rendering."""
        message = np.searchsorted(self.starts, positions, side="right") - 1
        inside = np.minimum(positions - self.starts[message], self.sizes[message])
        return np.where(message < 0, 0, self._before[message] + inside)

    def _message_of(self, ranks: Int64[np.ndarray, "token"]) -> Int64[np.ndarray, "token"]:
        """The message of each content byte, counted over all contents."""
        found = np.searchsorted(np.cumsum(self.sizes), ranks, side="right")
        return np.minimum(found, len(self.sizes) - 1)


def _sums_before(counts: Int64[np.ndarray, "message"]) -> Int64[np.ndarray, "message"]:
    return np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
