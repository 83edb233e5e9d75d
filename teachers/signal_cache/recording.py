"""A live teacher whose every answer is written down: after one epoch there is a cache."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from losses.document import Document
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.routed import signals_by_part
from teachers.speaker import Speaker


@runtime_checkable
class SignalWriter(Protocol):
    """What writes a teacher's answers down, each document's once."""

    def write_signals(self, documents: Sequence[Document], rows: Sequence[DocumentSignals]) -> None:
        """Store the signals of the documents that have none yet; returns when they are on disk."""

    def write_scores(self, documents: Sequence[Document], scores: Sequence[DocumentScore]) -> None:
        """The same for scores."""

    def write_head(self, head: HeadWeights) -> None:
        """The same for the head."""


def live_teacher(teacher: Speaker) -> Speaker:
    """The teacher that speaks, without what writes its answers down."""
    return teacher.teacher if isinstance(teacher, RecordingTeacher) else teacher


class RecordingTeacher:
    """Answers as the teacher inside does, and writes its answers.

    Args:
        name: of the teacher.
        teacher: the live one.
        writer: where its answers go.
    """

    def __init__(self, name: str, teacher: Speaker, writer: SignalWriter) -> None:
        self.name = name
        self.teacher = teacher
        self.writer = writer

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """See ``Speaker.signals``; what goes to other teachers is not written."""
        rows = self.teacher.signals(documents)
        own = [i for i, document in enumerate(documents) if document.goes_to(self.name)]
        self.writer.write_signals([documents[i] for i in own], [rows[i] for i in own])
        return rows

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> list[DocumentSignals]:
        """See ``Speaker.signals_of_parts``."""
        return signals_by_part(self.signals(documents), parts)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """See ``Speaker.evaluate``."""
        scores = self.teacher.evaluate(documents)
        self.writer.write_scores(documents, scores)
        return scores

    def head_weights(self) -> HeadWeights:
        """See ``Speaker.head_weights``."""
        head = self.teacher.head_weights()
        self.writer.write_head(head)
        return head
