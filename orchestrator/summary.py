"""What a run found, as it stands in ``summary.json``."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.atomic import atomic_write_text
from orchestrator.evaluation import Lead

SUMMARY = "summary.json"


@dataclass(frozen=True)
class BitsPerByte:
    """Held-out bits per byte; ``ce_only`` is None if that arm was not run."""

    before: float
    distilled: float
    ce_only: float | None
    teachers: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """One finished run.

    ``lead`` is that of the distilled student over cross-entropy alone (None without that arm).
    ``gap_recovered`` has by arm how much of the gap between the untrained student and its original
    was closed (``orchestrator.gap``); empty without such a teacher.
    ``gradient_share`` holds each teacher's (and ``ce``'s) mean part of the last layer's gradient
    norm; ``waited_s`` the seconds the student waited for each teacher; ``seconds`` the whole run
    by the wall clock and ``training_s`` each arm's steps; ``tokens_per_s`` student tokens and
    ``cpu_percent`` the load of this machine's cores while the distilled arm trained. ``plan`` are
    sentences that lay what was planned beside what the distilled arm took.
    """

    bits_per_byte: BitsPerByte
    by_data_set: dict[str, dict[str, float]]
    lead: Lead | None
    gap_recovered: dict[str, float]
    gradient_share: dict[str, float]
    waited_s: dict[str, float]
    seconds: float
    training_s: dict[str, float]
    tokens_per_s: float
    cpu_percent: float
    num_steps: int
    held_out_bytes: int
    left_out: dict[str, int]
    checkpoint: str
    plan: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write ``summary.json`` into the run folder."""
        atomic_write_text(folder / SUMMARY, json.dumps(asdict(self), indent=2) + "\n")


def load_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run as plain data."""
    found: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return found
