"""A weight as a function of the step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from losses.base import OPTIONS


@dataclass(frozen=True, config=OPTIONS)
class Schedule:
    """A weight that goes from one value to another and then stays.

    The step alone decides, so nothing has to be saved to resume. The shapes are those of tokenkit's
    loss schedules (``linear`` up or down, half a ``cosine``).

    Args:
        start: weight at the first step.
        end: weight from step ``steps`` on.
        steps: optimiser steps from start to end.
        shape: linear, or cosine: slow at both ends.

    >>> schedule = Schedule(start=0.0, end=1.0, steps=4)
    >>> [schedule.at(step) for step in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    start: float = Field(ge=0, allow_inf_nan=False, description="Weight at the first step.")
    end: float = Field(ge=0, allow_inf_nan=False, description="Weight from step ``steps`` on.")
    steps: int = Field(ge=1, description="Optimiser steps from start to end.")
    shape: Literal["linear", "cosine"] = Field("linear", description="Cosine is slow at both ends.")

    @model_validator(mode="after")
    def _changes(self) -> "Schedule":
        if self.start == self.end:
            raise ValueError(
                f"start and end are both {self.start:g}, so nothing is scheduled; expected two "
                "weights, or one number in place of the mapping"
            )
        return self

    def at(self, step: int) -> float:
        """The weight of a step, the first step being 0."""
        progress = min(step / self.steps, 1.0)
        if self.shape == "cosine":
            progress = (1.0 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress

    def times(self, factor: float) -> "Schedule":
        """The same course, this many times as high."""
        return replace(self, start=self.start * factor, end=self.end * factor)


@plain_dataclass(frozen=True)
class Total:
    """The sum of several weights, some of which change with the step."""

    parts: tuple[float | Schedule, ...]

    def at(self, step: int) -> float:
        """The sum at a step, the first step being 0."""
        return math.fsum(weight_at(part, step) for part in self.parts)


def weight_at(weight: float | Schedule | Total, step: int) -> float:
    """A weight at a step, the first step being 0.

    >>> weight_at(2.0, 7)
    2.0
    """
    return weight if isinstance(weight, float | int) else weight.at(step)


def total_of(weights: Sequence[float | Schedule]) -> float | Total:
    """The sum of weights: a number if none of them changes.

    >>> total_of([1.0, 0.5])
    1.5
    """
    numbers = [weight for weight in weights if not isinstance(weight, Schedule)]
    return math.fsum(numbers) if len(numbers) == len(weights) else Total(tuple(weights))
