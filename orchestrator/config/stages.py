"""The list ``train.stages`` of the run file: what is trained first, and what then."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.config.problems import Problem
from orchestrator.config.section import Section


class StageConfig(Section):
    """One stretch of the training, with its own part of the model."""

    steps: int = Field(ge=1)
    """Optimiser steps of the stage; those of all stages sum up to ``train.max_steps``."""
    trainable: Literal["embeddings", "all"] = "all"
    """What moves: embeddings are the rows of the input and the output; all is what the run trains
    otherwise. What methods train themselves (projectors, W) moves in every stage."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the stage; null is ``train.learning_rate``."""


def stages_problems(
    stages: tuple[StageConfig, ...], max_steps: int, warmup_steps: int
) -> Iterator[Problem]:
    """Why the stages are no course of ``max_steps`` steps."""
    if not stages:
        return
    total = sum(stage.steps for stage in stages)
    if total != max_steps:
        yield Problem(
            ("train", "stages"),
            f"their steps sum up to {total}, but train.max_steps is {max_steps}; expected equal "
            "numbers",
        )
    for index, stage in enumerate(stages):
        if warmup_steps >= stage.steps:
            yield Problem(
                ("train", "stages", index, "steps"),
                f"train.warmup_steps = {warmup_steps} never ends within the {stage.steps} steps of "
                "this stage (each stage has its own warm-up); expected more steps, or fewer of "
                "warm-up",
            )
