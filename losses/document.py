"""A document: the bytes every model sees, and which of them count.

Bytes are the truth. Each tokenizer has its own view of a document (``Tokens``), but masks,
alignment, normalisation and evaluation are all laid out along these bytes.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class Segment:
    """A stretch of content with one role (``text``, ``prompt``, ``completion``)."""

    role: str
    content: bytes
    scored: bool


@dataclass(frozen=True)
class Document:
    """Content segments in order; ``name`` says where the document came from.

    >>> segments = (Segment("prompt", b"2+2=", False), Segment("completion", b"4", True))
    >>> document = Document("d", segments)
    >>> document.content, document.num_scored_bytes
    (b'2+2=4', 1)
    """

    name: str
    segments: tuple[Segment, ...]

    @cached_property
    def content(self) -> bytes:
        """All segments' bytes joined."""
        return b"".join(segment.content for segment in self.segments)

    @cached_property
    def scored(self) -> Bool[np.ndarray, "byte"]:
        """True for each byte that losses and evaluation count."""
        spans = [np.full(len(s.content), s.scored, dtype=bool) for s in self.segments]
        return np.concatenate(spans) if spans else np.zeros(0, dtype=bool)

    @property
    def num_scored_bytes(self) -> int:
        """Number of bytes that losses and evaluation count."""
        return int(self.scored.sum())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, the roles and the scored spans (not of the name)."""
        sha = hashlib.sha256()
        for segment in self.segments:
            header = f"{segment.role}\0{int(segment.scored)}\0{len(segment.content)}\0"
            sha.update(header.encode() + segment.content)
        return sha.hexdigest()


def text_document(name: str, text: str) -> Document:
    """A document of plain text in which every byte is scored.

    >>> text_document("d", "hé").num_scored_bytes
    3
    """
    return Document(name, (Segment("text", text.encode(), scored=True),))
