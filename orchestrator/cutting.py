"""Documents cut to a length in tokens, by bytes, so that every model reads the same text.

A text is cut where a word begins, since all tokenizers part there; a chat after a whole turn.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64

from losses.alignment.tokens import Tokens
from losses.document import Document, Segment
from teachers.tokenizer import Tokenizer, UnfaithfulTokenizer

WHITE_SPACE = b" \t\r\n"
WINDOW = 64
"""Bytes at the end of what fits in which a word's beginning is looked for."""

View: TypeAlias = Tokens | UnfaithfulTokenizer


def cut_to_length(
    documents: Sequence[Document], tokenizer: Tokenizer, max_length: int
) -> list[tuple[Document, View]]:
    """Each document within ``max_length`` tokens, with its tokens.

    A document that fits stays the same object; one that the tokenizer cannot read exactly stays
    whole and comes with the error. Of a document whose scored part lies beyond the length
    nothing scored may be left.
    """
    found = list(zip(documents, tokenizer.read(documents), strict=True))
    while True:
        long = [i for i, (_, view) in enumerate(found) if _is_longer(view, max_length)]
        if not long:
            return found
        shorter = [_shorter(*found[i], max_length) for i in long]
        views = tokenizer.read(shorter)
        for index, document, view in zip(long, shorter, views, strict=True):
            found[index] = (document, view)


def _is_longer(view: View, max_length: int) -> bool:
    return isinstance(view, Tokens) and len(view) > max_length


def _shorter(document: Document, view: View, max_length: int) -> Document:
    """The beginning that should fit; at least one byte shorter."""
    if isinstance(view, UnfaithfulTokenizer):
        return document
    if document.is_chat:
        return _shorter_chat(document, view.byte_ends, max_length)
    fits = int(view.byte_ends[:max_length].max())
    size = border(document.content, min(fits, len(document.content) - 1))
    return _beginning(document, size)


def border(content: bytes, most: int) -> int:
    """The last offset up to ``most`` at which a word begins, or else a character.

    A word begins at the white space before it; it is looked for in the last ``WINDOW`` bytes.

    >>> border(b"one two three", 10), border("日本語".encode(), 7)
    (7, 6)
    """
    for offset in range(most, max(most - WINDOW, 1) - 1, -1):
        if content[offset] in WHITE_SPACE and content[offset - 1] not in WHITE_SPACE:
            return offset
    while most > 0 and content[most] & 0xC0 == 0x80:
        most -= 1
    return most


def _beginning(document: Document, num_bytes: int) -> Document:
    segments, left = [], num_bytes
    for segment in document.segments:
        segments.append(replace(segment, content=segment.content[:left]))
        left -= len(segments[-1].content)
    return replace(document, segments=tuple(segments))


def _shorter_chat(
    document: Document, byte_ends: Int64[np.ndarray, "token"], max_length: int
) -> Document:
    """Fewer whole turns; if only the first is left, its beginning without the end of turn."""
    turns = _turns(document.segments)
    if len(turns) == 1:
        return _within_turn(document, byte_ends, max_length)
    sizes = np.cumsum([sum(len(segment.content) for segment in turn) for turn in turns])
    lengths = [int(np.argmax(byte_ends >= size)) + 1 for size in sizes[:-1]]
    kept = max(1, sum(length <= max_length for length in lengths))
    segments = [segment for turn in turns[:kept] for segment in turn]
    return replace(document, segments=tuple(segments))


def _turns(segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments in groups that end with an assistant's end of turn."""
    turns: list[list[Segment]] = [[]]
    for segment in segments:
        turns[-1].append(segment)
        if segment.role == "end_of_turn":
            turns.append([])
    return [turn for turn in turns if turn]


def _within_turn(
    document: Document, byte_ends: Int64[np.ndarray, "token"], max_length: int
) -> Document:
    """The chat with the beginning of its answer; without any segment if there is no room."""
    *before, answer = (s for s in document.segments if s.role != "end_of_turn")
    start = sum(len(segment.content) for segment in before)
    inside = np.flatnonzero((byte_ends > start) & (byte_ends <= start + len(answer.content)))
    num_after = len(byte_ends) - 1 - (inside[-1] if len(inside) else 0)
    fits = byte_ends[inside[inside < max_length - num_after]]
    size = int(fits.max(initial=start)) - start
    size = border(answer.content, min(size, len(answer.content) - 1)) if size else 0
    kept = (*before, replace(answer, content=answer.content[:size])) if size else ()
    return replace(document, segments=kept)
