"""What a rank has of the signals of a step, and what it tells the driver about them.

The driver asks every rank to ``receive`` before any of them trains: a teacher that is lost is then
the same news for all, and no rank waits for it inside a step.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from losses.document import Document
from losses.mixture import Unusable
from orchestrator.student.trainer import StudentTrainer
from teachers.document_signals import DocumentSignals
from teachers.routed import absent_row


@dataclass(frozen=True)
class Missing:
    """A teacher whose signals do not come; ``died`` is false for one that is only silent."""

    teacher: str
    text: str
    died: bool


@dataclass(frozen=True)
class Bad:
    """A document on which a teacher says nothing because what it said was no number."""

    teacher: str
    document: str
    reason: str


@dataclass(frozen=True)
class Arrival:
    """Empty if all is there and sound."""

    missing: Missing | None = None
    bad: tuple[Bad, ...] = ()


@dataclass
class Inbox:
    """What has arrived for the next step, by teacher, and the seconds that it was waited for."""

    rows: dict[str, list[DocumentSignals]] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)

    def put(self, teacher: str, rows: list[DocumentSignals] | None, seconds: float) -> None:
        """Keep what arrived, or only the time if nothing did."""
        self.waited[teacher] = self.waited.get(teacher, 0.0) + seconds
        if rows is not None:
            self.rows[teacher] = rows

    def bad(self, documents: Sequence[Document]) -> tuple[Bad, ...]:
        """The documents on which a teacher failed, each once."""
        found = (_bad(teacher, documents, rows) for teacher, rows in self.rows.items())
        return tuple(bad for each in found for bad in each)


def signals_by_document(
    rows: Mapping[str, Sequence[DocumentSignals]],
    nothing: Mapping[str, DocumentSignals],
    left_out: Collection[str],
    num_documents: int,
) -> list[DocumentSignals]:
    """Each document's signals from all teachers, one after another.

    Args:
        rows: what arrived, by teacher.
        nothing: the row of a teacher that says nothing, for all teachers in the run file's order.
        left_out: teachers whose rows do not count, and need not be there.
        num_documents: how many there are.

    Raises:
        KeyError: a teacher's rows are missing.
    """
    by_teacher = [
        [empty] * num_documents if teacher in left_out else rows[teacher]
        for teacher, empty in nothing.items()
    ]
    return [sum((said[i] for said in by_teacher), ()) for i in range(num_documents)]


def nothing_said(trainer: StudentTrainer) -> dict[str, DocumentSignals]:
    """The row of each teacher for a document of which it says nothing, in the run file's order."""
    counts = Counter(member.teacher for member in trainer.engine.module.members)
    asks = trainer.objective.scheme.asks
    return {teacher: absent_row(count, asks) for teacher, count in counts.items()}


def _bad(
    teacher: str, documents: Sequence[Document], rows: Sequence[DocumentSignals]
) -> Iterator[Bad]:
    for document, row in zip(documents, rows, strict=True):
        reasons = [signal.reason for signal in row if isinstance(signal, Unusable)]
        if reasons:
            yield Bad(teacher, document.name, reasons[0])
