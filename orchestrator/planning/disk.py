"""What a run writes."""

from dataclasses import dataclass

from orchestrator.config import RunConfig
from orchestrator.planning.memory import FLOAT32
from orchestrator.planning.skeleton import Sizes


@dataclass(frozen=True)
class Disk:
    """Bytes in the run folder.

    Args:
        model: the trained model in ``final``.
        checkpoint: one checkpoint: the model and the state to go on from.
        num_checkpoints: that stay at the same time.
        being_written: one more is there while it is written, before the oldest goes.
        arms: 2 with a student of cross-entropy alone beside the distilled one.
        versions: of a teacher that follows the student, outside the checkpoints.
    """

    model: int
    checkpoint: int
    num_checkpoints: int
    being_written: bool = False
    arms: int = 1
    versions: int = 0

    @property
    def total(self) -> int:
        """At the fullest moment."""
        checkpoints = self.arms * self.num_checkpoints + self.being_written
        return self.arms * self.model + self.versions + self.checkpoint * checkpoints


def disk_of(config: RunConfig, sizes: Sizes, extra: int = 0) -> Disk:
    """What final model and checkpoints take.

    Args:
        config: the run.
        sizes: the student's.
        extra: numbers that methods train beside it.
    """
    train, model = config.train, sizes.weight_bytes
    follows = any(teacher.refresh is not None for teacher in config.teachers)
    state = (3 + follows) * FLOAT32 * (sizes.trained + extra) + model * follows
    written = -(-train.max_steps // train.save_steps) if train.save_steps else 0
    limit = written if train.save_total_limit is None else train.save_total_limit
    kept = min(written, max(limit, 1 + train.keep_best))
    return Disk(
        model,
        model + state,
        kept,
        being_written=written > kept,
        arms=1 + (config.compare.ce_only is not None),
        versions=2 * model * follows,  # the next one is written while the last one speaks
    )
