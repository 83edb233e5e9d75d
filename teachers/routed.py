"""Which documents a teacher reads, and what it answers about the others."""

from collections.abc import Callable, Sequence

from losses.document import Document
from losses.mixture import Absent, Metric, TeacherScore
from losses.signals import Signal


def routed_signals(
    name: str,
    documents: Sequence[Document],
    absent: tuple[Signal, ...],
    answer: Callable[[Sequence[Document]], list[tuple[Signal, ...]]],
) -> list[tuple[Signal, ...]]:
    """Each document's signals, in the order of the documents.

    Args:
        name: of the teacher.
        documents: any, also those that go to other teachers.
        absent: the signals of a document that does not go to this teacher, see ``absent_row``.
        answer: the signals of documents that do.
    """
    own = [document for document in documents if document.goes_to(name)]
    found = iter(answer(own) if own else [])
    return [next(found) if document.goes_to(name) else absent for document in documents]


def absent_row(num_methods: int, asks: Metric | None) -> tuple[Signal, ...]:
    """The signals of a teacher that says nothing, with its empty score if it is asked for one."""
    score = () if asks is None else (TeacherScore(0.0, 0, 0),)
    return (Absent(),) * num_methods + score


def signals_by_part(
    rows: Sequence[tuple[Signal, ...]], parts: Sequence[Sequence[int]]
) -> list[tuple[Signal, ...]]:
    """Each document's signals, once for each part: the places of the methods it is made of."""
    return [tuple(row[place] for place in part) for row in rows for part in parts]
