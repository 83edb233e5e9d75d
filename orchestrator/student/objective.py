"""What is minimised: the terms' weights as they are written, and what becomes of them."""

from dataclasses import dataclass, field

from losses.mixture import Constant, Schedule, Scheme, Total
from losses.mixture.schedule import weight_at
from losses.mixture.scheme import Weights


@dataclass(frozen=True)
class Objective:
    """How the terms are mixed: ``weights`` in the module's order (cross-entropy first)."""

    weights: tuple[float | Schedule | Total, ...]
    normalize: str
    scheme: Scheme = field(default_factory=Constant)

    def written(self, step: int) -> Weights:
        """The weights of the run file at a step."""
        return tuple(weight_at(weight, step) for weight in self.weights)

    @property
    def has_state(self) -> bool:
        """True if the weights of a step depend on the steps before it, or on their number."""
        scheduled = any(isinstance(weight, Schedule | Total) for weight in self.weights)
        return scheduled or self.scheme.observes is not None
