"""Where an arm of a run starts: anew, at a checkpoint, or not at all because it is finished."""

import logging
from dataclasses import dataclass
from pathlib import Path

from orchestrator.arm import Course
from orchestrator.checkpoint import Inputs, Position, checkpoint_to_resume, clear_the_way
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.metrics import cut_metrics
from orchestrator.outcome import Outcome, load_outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartingPoint:
    """``position`` is where the next step is; ``checkpoint`` None is the very start.

    ``finished`` is set if the arm has done all its steps already.
    """

    position: Position
    checkpoint: Path | None = None
    finished: Outcome | None = None


def check_resumable(folder: Path, config: RunConfig, inputs: Inputs) -> None:
    """Refuse early what cannot be resumed, before any process starts.

    Raises:
        ConfigError: there is nothing to resume from, or it is of other data.
    """
    finished, checkpoint = load_outcome(folder), checkpoint_to_resume(folder)
    if checkpoint is not None:
        _check(folder, Position.load(checkpoint), config, inputs)
    elif finished is None or finished.num_steps != config.train.max_steps:
        raise ConfigError(
            f"{folder} holds no checkpoint to resume from (train.save_steps says how often one is "
            "written); start anew with --overwrite, which moves the folder aside"
        )
    if finished is not None and finished.inputs.changed(inputs):
        _refuse(folder, inputs.changed(finished.inputs))


def starting_point(course: Course) -> StartingPoint:
    """Find it, and clear away what was written after it.

    Raises:
        ConfigError: the checkpoint is of other data, or is past the last step.
    """
    folder, finished = course.folder, load_outcome(course.folder)
    if finished is not None and finished.num_steps == course.config.train.max_steps:
        log.info("%s is finished: not trained again", folder)
        return StartingPoint(course.start(), finished=finished)
    checkpoint = checkpoint_to_resume(folder)
    position = course.start()
    if checkpoint is not None:
        position = Position.load(checkpoint)
        _check(folder, position, course.config, course.inputs)
        log.info("resuming from %s", checkpoint)
    clear_the_way(folder, checkpoint)
    cut_metrics(folder, position.step)
    return StartingPoint(position, checkpoint)


def _check(folder: Path, position: Position, config: RunConfig, inputs: Inputs) -> None:
    if changed := inputs.changed(position.inputs):
        _refuse(folder, changed)
    if position.step > config.train.max_steps:
        raise ConfigError(
            f"train.max_steps: {config.train.max_steps}, but {folder} stands at step "
            f"{position.step} already; raise it to train further"
        )


def _refuse(folder: Path, changed: list[str]) -> None:
    raise ConfigError(
        f"what the run in {folder} reads has changed, so it cannot be resumed exactly:\n  "
        + "\n  ".join(changed)
        + "\nRestore it, or start another run in another output_dir"
    )
