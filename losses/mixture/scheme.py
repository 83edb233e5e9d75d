"""What a scheme of weights is."""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

from pydantic.dataclasses import dataclass

from losses.base import OPTIONS
from losses.mixture.teacher_score import Metric, TeacherScore

Weights: TypeAlias = tuple[float, ...]
"""One number a term, cross-entropy first."""

Observed: TypeAlias = Literal["losses", "norms"]
"""What is measured on the global batch of each step: the terms' losses (nats per byte or unit), or
the norms of their gradients with respect to the last layer; both before any weight."""


class Scheme(ABC):  # noqa: B024 - a scheme overrides one half or the other
    """How the weights of the run file become the weights of a step and of a document.

    A subclass is a frozen pydantic dataclass of its options. Both halves keep the sum of the
    weights that they redistribute, so a run's learning rate keeps its meaning.
    """

    min_teachers: ClassVar[int] = 0
    """Teachers without which the scheme has nothing to decide."""
    observes: ClassVar[Observed | None] = None
    """What of former steps ``weights`` reads."""

    @property
    def asks(self) -> Metric | None:
        """What each teacher must send about each document; None if ``shares`` is not used."""
        return None

    def weights(self, written: Weights, average: Weights) -> Weights:
        """The weights of a step.

        Args:
            written: those of the run file at this step.
            average: what ``observes`` names, averaged over former steps; 0 where a term was
                never measured. Not read if nothing is observed.
        """
        return written

    def averaged(self, before: Weights | None, now: Weights) -> Weights:
        """What was observed up to now, the step that was just measured included."""
        return now

    def shares(self, written: Sequence[float], scores: Sequence[TeacherScore]) -> list[float]:
        """Factors of the teachers' weights on one document, for the teachers that it goes to.

        Args:
            written: each of these teachers' weight at this step.
            scores: what each of them makes of the document.
        """
        return [1.0] * len(written)


@dataclass(frozen=True, config=OPTIONS)
class Constant(Scheme):
    """The weights stay as they are written."""
