"""A document: the bytes every model sees, and which of them count.

Bytes are the truth. Each tokenizer has its own view of a document (``Tokens``), but masks,
alignment, normalisation and evaluation are all laid out along these bytes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

CHAT_ROLES = ("system", "user", "assistant")
"""Who speaks in a chat; only the assistant is scored."""

END_OF_TURN = b"\xff"
"""The end of an assistant's turn as one byte, which never occurs in UTF-8."""


@dataclass(frozen=True)
class Segment:
    """A stretch of content with one role.

    Roles are ``text``, ``prompt`` and ``completion``; in chats ``system``, ``user``,
    ``assistant`` and, with the byte ``END_OF_TURN`` as its content, ``end_of_turn``.
    """

    role: str
    content: bytes
    scored: bool


@dataclass(frozen=True)
class Document:
    """Content segments in order; ``name`` says where the document came from.

    ``teachers`` are the names of those that it goes to; None is all of them.

    >>> segments = (Segment("prompt", b"2+2=", False), Segment("completion", b"4", True))
    >>> document = Document("d", segments)
    >>> document.content, document.num_scored_bytes
    (b'2+2=4', 1)
    """

    name: str
    segments: tuple[Segment, ...]
    teachers: tuple[str, ...] | None = None

    def goes_to(self, teacher: str) -> bool:
        """True if the teacher of this name reads and teaches the document."""
        return self.teachers is None or teacher in self.teachers

    @cached_property
    def content(self) -> bytes:
        """All segments' bytes joined; a chat's hold ``END_OF_TURN`` and are no UTF-8."""
        return b"".join(segment.content for segment in self.segments)

    @cached_property
    def scored(self) -> Bool[np.ndarray, "byte"]:
        """True for each byte that losses and evaluation count."""
        spans = [np.full(len(s.content), s.scored, dtype=bool) for s in self.segments]
        return np.concatenate(spans) if spans else np.zeros(0, dtype=bool)

    @property
    def num_scored_bytes(self) -> int:
        """Number of bytes that losses and evaluation count; an end of turn is one."""
        return sum(len(segment.content) for segment in self.segments if segment.scored)

    @property
    def is_chat(self) -> bool:
        """True if each tokenizer reads the document through its chat template."""
        return any(segment.role in CHAT_ROLES for segment in self.segments)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, the roles and the scored spans (of no name)."""
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


def chat_document(name: str, messages: Sequence[tuple[str, str]]) -> Document:
    r"""A chat of (role, content); what the assistant says and the ends of its turns are scored.

    >>> document = chat_document("d", [("user", "Hi"), ("assistant", "Hé")])
    >>> document.content, document.num_scored_bytes
    (b'HiH\xc3\xa9\xff', 4)
    """
    segments = []
    for role, content in messages:
        segments.append(Segment(role, content.encode(), scored=role == "assistant"))
        if role == "assistant":
            segments.append(Segment("end_of_turn", END_OF_TURN, scored=True))
    return Document(name, tuple(segments))
