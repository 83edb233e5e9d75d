"""What a run's folder says about the model in one of its checkpoints.

Only what was written down is told; everything else is None.

    OUTPUT_DIR/resolved.yaml           the run file, defaults filled in
    OUTPUT_DIR/outcome.json            scores and totals of the finished arm
    OUTPUT_DIR/before.json             scores before the first step
    OUTPUT_DIR/checkpoint-N/state/     totals so far
    OUTPUT_DIR/ce_only/                the arm without teachers, alike
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.checkpoint import Tally
from orchestrator.checkpoint.position import POSITION, Position
from orchestrator.outcome import BEFORE, Outcome, load_before, load_outcome
from orchestrator.run_folder import RESOLVED
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte

CE_ONLY = "ce_only"


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Args:
        recipe: the run file as plain data, as this arm was trained; None without a run.
        step: optimizer updates done.
        num_tokens: of the student, read in training.
        num_bytes: that counted in training.
        before: bits per byte on the held-out data before the first step.
        after: of this model; None for a checkpoint that was not scored there.
        teachers: of each teacher.
        held_out_bytes: that were scored.
    """

    recipe: Mapping[str, Any] | None = None
    step: int | None = None
    num_tokens: int | None = None
    num_bytes: int | None = None
    before: float | None = None
    after: float | None = None
    teachers: Mapping[str, float] = field(default_factory=dict)
    held_out_bytes: int | None = None


def provenance(checkpoint: Path) -> Provenance:
    """What is known of a checkpoint; nothing of a folder that no run wrote."""
    arm = checkpoint.absolute().parent
    recipe = _recipe(arm)
    if recipe is None:
        return Provenance()
    outcome, step = load_outcome(arm), _step(checkpoint)
    if outcome is not None and step != outcome.num_steps:
        outcome = None
    tally = _tally(checkpoint, outcome)
    scores = _before(arm)
    student = scores.pop("student", [])
    return Provenance(
        recipe=recipe,
        step=step,
        num_tokens=(tally.num_tokens or None) if tally else None,
        num_bytes=(tally.num_bytes or None) if tally else None,
        before=_bits(student),
        after=None if outcome is None else _bits(outcome.after),
        teachers={name: bits_per_byte(rows) for name, rows in scores.items() if rows},
        held_out_bytes=sum(score.num_bytes for score in student) or None,
    )


def _recipe(arm: Path) -> dict[str, Any] | None:
    """The run file of an arm; that of the arm without teachers is made from its run's."""
    own = _yaml(arm / RESOLVED)
    if own is not None or arm.name != CE_ONLY:
        return own
    run = _yaml(arm.parent / RESOLVED)
    rate = ((run or {}).get("compare") or {}).get(CE_ONLY)
    if run is None or rate is None:
        return None
    train = {**run.get("train", {}), "learning_rate": rate.get("learning_rate")}
    return {**run, "teachers": [], "train": train}


def _yaml(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else None


def _step(checkpoint: Path) -> int | None:
    path = checkpoint / "trainer_state.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["step"]) if path.is_file() else None


def _tally(checkpoint: Path, outcome: Outcome | None) -> Tally | None:
    if outcome is not None:
        return outcome.tally
    return Position.load(checkpoint).tally if (checkpoint / POSITION).is_file() else None


def _before(arm: Path) -> dict[str, list[DocumentScore]]:
    return load_before(arm) if (arm / BEFORE).is_file() else {}


def _bits(scores: Sequence[DocumentScore]) -> float | None:
    return bits_per_byte(scores) if scores else None
