"""Which checkpoints stay: the latest, the best, and as many of the newest as were asked for."""

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.atomic import atomic_write_text, discard
from orchestrator.checkpoint.contents import BEST, LATEST, complete_checkpoints
from orchestrator.checkpoint.position import Position


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
        best = self._note_best(folder, found) if self.keep_best else None
        if self.total_limit is None:
            return
        latest = (folder / LATEST).read_text(encoding="utf-8").strip()
        spare = [path for path in found if path != best and path.name != latest]
        for path in spare[: max(0, len(found) - self.total_limit)]:
            discard(path)

    def _note_best(self, folder: Path, found: list[Path]) -> Path | None:
        positions = {path: Position.load(path) for path in found}
        scores = {p: v.bits_per_byte for p, v in positions.items() if v.bits_per_byte is not None}
        if not scores:
            return None
        best = min(scores, key=lambda path: scores[path])
        note = {"checkpoint": best.name, "step": positions[best].step}
        text = json.dumps(note | {"validation_bits_per_byte": scores[best]}, indent=2)
        atomic_write_text(folder / BEST, text + "\n")
        return best
