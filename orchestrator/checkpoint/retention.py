"""Which checkpoints stay: the latest, the best, and as many of the newest as were asked for.

Only finished checkpoints count and are deleted. What ``clear_the_way`` renamed to
``checkpoint-N.aside-…`` stays until the user deletes it.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.atomic import atomic_write_text, discard
from orchestrator.checkpoint.contents import BEST, LATEST, complete_checkpoints, name_of
from orchestrator.checkpoint.position import POSITION, Position

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """How many checkpoints stay (None: all), and whether the best one is among them."""

    total_limit: int | None = None
    keep_best: bool = False

    def apply(self, folder: Path) -> None:
        """Note the best checkpoint and delete the oldest ones beyond the limit.

        The latest and the best are never deleted. Call when a new one is complete.
        """
        found = list(complete_checkpoints(folder).values())
        best = note_best(folder) if self.keep_best else None
        if self.total_limit is None:
            return
        latest = (folder / LATEST).read_text(encoding="utf-8").strip()
        spare = [path for path in found if path != best and path.name != latest]
        for path in spare[: max(0, len(found) - self.total_limit)]:
            discard(path)


def note_best(folder: Path) -> Path | None:
    """Write down which finished checkpoint is the best; None, and no note, if none was measured."""
    scores = dict(_scores(folder))
    if not scores:
        (folder / BEST).unlink(missing_ok=True)
        return None
    step = min(scores, key=lambda step: scores[step])
    best = folder / name_of(step)
    note = {"checkpoint": best.name, "step": step, "validation_bits_per_byte": scores[step]}
    atomic_write_text(folder / BEST, json.dumps(note, indent=2) + "\n")
    return best


def _scores(folder: Path) -> Iterator[tuple[int, float]]:
    """Step and bits per byte of each checkpoint that was measured and can be read."""
    for step, path in complete_checkpoints(folder).items():
        try:
            bits = Position.load(path).bits_per_byte
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged and cannot be the best (%s: %s)", path, POSITION, error)
            continue
        if bits is not None:
            yield step, bits
