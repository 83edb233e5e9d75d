"""What answers like a teacher, wherever its signals come from."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from losses.document import Document
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights


@runtime_checkable
class Speaker(Protocol):
    """A model that runs here, one behind a server, or signals on a disk: all are asked like this.

    A document that does not go to this teacher is not read: its signals are ``Absent``, see
    ``teachers.routed``.
    """

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """Each document's signals, in the order of the documents."""

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> list[DocumentSignals]:
        """Each document's signals, once for each part: the places of the methods it is made of."""

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """How well the teacher itself predicts each document.

        Raises:
            ValueError: this kind of teacher cannot tell.
        """

    def head_weights(self) -> HeadWeights:
        """The head as arrays.

        Raises:
            ValueError: this kind of teacher has none to give.
        """
