"""Stages of a training: which part of the student moves at a step, and at which rate.

A stage that trains the embeddings alone freezes the rest: no gradient, rate 0, and nothing in the
optimizer's moments. Where a stage frees what the one before it kept still, that part starts as if
it had never moved: AdamW's moments and their count are those of step 0. What both stages train
keeps its moments. The rates are a function of the step, so a resumed run needs no more than that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn
from transformers import PreTrainedModel

from orchestrator.student.adamw import trained_parameters
from orchestrator.student.module import DistillModule
from orchestrator.student.schedule import lr_factor

Part: TypeAlias = Literal["always", "rest", "own rate"]
"""What a group of the optimizer holds: what every stage trains (embeddings, and what methods train
at the student's rate), what some stages freeze, or what methods train at a rate of their own."""


@dataclass(frozen=True)
class Stage:
    """One stage; ``learning_rate`` None is that of the run."""

    steps: int
    embeddings_only: bool = False
    learning_rate: float | None = None


def stage_at(stages: Sequence[Stage], step: int) -> tuple[int, int]:
    """The index of the stage that a step belongs to, and the step's number in it.

    Steps beyond the end belong to the last stage.

    >>> [stage_at((Stage(2), Stage(3)), step) for step in (0, 1, 2, 5)]
    [(0, 0), (0, 1), (1, 0), (1, 3)]
    """
    index = 0
    while index + 1 < len(stages) and step >= stages[index].steps:
        step -= stages[index].steps
        index += 1
    return index, step


def embedding_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """The rows of the input and of the output; those that are tied once."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    found = [p for module in modules if module is not None for p in module.parameters()]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class RateCourse:
    """The learning rate over the steps: warm-up, then a schedule, in each stage anew.

    Without stages there is one, of all steps.
    """

    schedule: str
    warmup_steps: int
    max_steps: int
    learning_rate: float
    stages: tuple[Stage, ...] = ()

    def factor(self, part: Part) -> Callable[[int], float]:
        """What the peak rate of a part is multiplied by at each step.

        >>> stages = (Stage(2, embeddings_only=True, learning_rate=0.5), Stage(2))
        >>> course = RateCourse("constant", 0, 4, 0.1, stages)
        >>> [[course.factor(part)(step) for step in (1, 2)] for part in ("always", "rest")]
        [[5.0, 1.0], [0.0, 1.0]]
        """
        stages = self.stages or (Stage(self.max_steps),)
        courses = [lr_factor(self.schedule, self.warmup_steps, stage.steps) for stage in stages]

        def factor(step: int) -> float:
            index, own = stage_at(stages, step)
            stage, found = stages[index], courses[index](own)
            if part == "rest" and stage.embeddings_only:
                return 0.0
            if part == "own rate" or stage.learning_rate is None:
                return found
            return found * (stage.learning_rate / self.learning_rate)

        return factor


class StagedParameters:
    """Freezes and frees the student's parameters as the stages say.

    Args:
        module: the student; what any stage trains must require a gradient.
        stages: none leaves everything as it is.
    """

    def __init__(self, module: DistillModule, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        self._rest = rest_of(module) if stages else {}

    def enter(self, step: int) -> tuple[str, ...]:
        """Let move what the step's stage trains; gives the names of what starts anew with it."""
        if not self._stages:
            return ()
        index, own = stage_at(self._stages, step)
        frozen = self._stages[index].embeddings_only
        for parameter in self._rest.values():
            parameter.requires_grad_(not frozen)
        freed = index > 0 and self._stages[index - 1].embeddings_only and not frozen
        return tuple(self._rest) if freed and own == 0 else ()


def rest_of(module: DistillModule) -> dict[str, nn.Parameter]:
    """What a stage of embeddings alone freezes, by name."""
    always = {*embedding_parameters(module.model), *module.method_modules.parameters()}
    named = trained_parameters(module)
    return {name: p for name, p in named.items() if p not in always}
