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
        num_checkpoints: that stay at the same time; one more is there while it is written.
    """

    model: int
    checkpoint: int
    num_checkpoints: int

    @property
    def total(self) -> int:
        """At the fullest moment."""
        being_written = bool(self.num_checkpoints)
        return self.model + self.checkpoint * (self.num_checkpoints + being_written)


def disk_of(config: RunConfig, sizes: Sizes, extra: int = 0) -> Disk:
    """What final model and checkpoints take.

    Args:
        config: the run.
        sizes: the student's.
        extra: numbers that methods train beside it.
    """
    train = config.train
    model = sizes.weight_bytes
    kinds = 3 + any(teacher.refresh is not None for teacher in config.teachers)
    state = kinds * FLOAT32 * (sizes.trained + extra)
    written = -(-train.max_steps // train.save_steps) if train.save_steps else 0
    kept = min(written, (train.save_total_limit or written) + train.keep_best)
    return Disk(model, model + state, kept)
