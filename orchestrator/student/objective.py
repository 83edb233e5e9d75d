"""What is minimised: the terms' weights as they are written, and what becomes of them."""

from dataclasses import dataclass, field

from losses.mixture import Constant, Schedule, Scheme, Total, handed_on
from losses.mixture.schedule import weight_at
from losses.mixture.scheme import Weights


@dataclass(frozen=True)
class Objective:
    """How the terms are mixed: ``weights`` in the module's order (cross-entropy first).

    ``silent`` are the places of terms whose teachers are gone for good: the others take over.
    """

    weights: tuple[float | Schedule | Total, ...]
    normalize: str
    scheme: Scheme = field(default_factory=Constant)
    silent: frozenset[int] = frozenset()

    def written(self, step: int) -> Weights:
        """The weights of the run file at a step, as far as their terms still speak."""
        return handed_on(tuple(weight_at(weight, step) for weight in self.weights), self.silent)

    @property
    def has_state(self) -> bool:
        """True if the weights of a step depend on the steps before it, or on their number."""
        scheduled = any(isinstance(weight, Schedule | Total) for weight in self.weights)
        return scheduled or self.scheme.observes is not None
