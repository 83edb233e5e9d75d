"""What the training code asks of an engine; DeepSpeed is the one that ships."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from orchestrator.student.adamw import AdamWState
from orchestrator.student.average import RunningAverage
from orchestrator.student.module import DistillModule, Example, Probe
from orchestrator.student.stages import RateCourse, Stage


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is built from; sizes are per rank, gradients are clipped globally."""

    micro_batch: int
    accumulation: int
    dtype: str
    learning_rate: float
    lr_schedule: str
    warmup_steps: int
    max_steps: int
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    extra: Mapping[str, Any]
    """The user's DeepSpeed settings, passed through."""
    stages: tuple[Stage, ...] = ()
    """What is trained first and what then; none trains everything throughout."""
    average_decay: float | None = None
    """Decay of a running mean of the weights; None keeps none."""

    @property
    def rates(self) -> RateCourse:
        """The learning rate over the steps."""
        return RateCourse(
            self.lr_schedule, self.warmup_steps, self.max_steps, self.learning_rate, self.stages
        )


@dataclass(frozen=True)
class Update:
    """One optimizer step: global gradient norm before clipping, and the rate it used."""

    grad_norm: float
    learning_rate: float


@runtime_checkable
class StudentEngine(Protocol):
    """Runs the wrapped module on one rank.

    ``backward`` takes this rank's share of the global objective: summing it over all ranks and
    micro-batches of a step gives the objective. The engine undoes whatever averages it makes.
    """

    module: DistillModule
    state: AdamWState
    """Master weights and moments by parameter name."""
    average: RunningAverage | None
    """The running mean of the masters, if it was asked for."""

    def forward(
        self, examples: Sequence[Example], probe: Probe | None = None
    ) -> Float[Tensor, "term"]:
        """The wrapped module's totals on one micro-batch."""

    def backward(self, objective: Float[Tensor, ""]) -> None:
        """Accumulate the gradient of this micro-batch's share of the objective."""

    def step(self) -> Update:
        """Update the weights after the last micro-batch of a step."""

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over ranks."""

    def state_dict(self) -> dict[str, Tensor]:
        """The student model's full weights on the CPU (complete on rank 0)."""

    def move_to(self, device: str) -> None:
        """Move all of it to ``cuda`` or ``cpu``, between two steps; only without ZeRO-3."""

    def resume_at(self, step: int) -> None:
        """Put the learning-rate schedule and counters where they are after ``step`` updates."""
