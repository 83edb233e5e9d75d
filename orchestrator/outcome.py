"""What one arm came to, and the files that keep it, so that a resumed run does nothing twice.

    before.json    scores before the first step, of the student and the teachers
    outcome.json   scores and totals after the last step; the arm is finished

Both lie in the arm's folder.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.atomic import atomic_write_text
from orchestrator.checkpoint import Inputs, Tally
from teachers.document_score import DocumentScore

BEFORE = "before.json"
OUTCOME = "outcome.json"

Scores: TypeAlias = dict[str, list[DocumentScore]]
"""Each document's score, by teacher and ``student``."""


@dataclass(frozen=True)
class Outcome:
    """One arm's scores on the held-out documents, before and after, and its training."""

    num_steps: int
    inputs: Inputs
    before: list[DocumentScore]
    after: list[DocumentScore]
    teachers: Scores
    tally: Tally


def save_before(folder: Path, scores: Scores) -> None:
    """Keep what can be measured only before the first step."""
    rows = {name: _rows(values) for name, values in scores.items()}
    atomic_write_text(folder / BEFORE, json.dumps(rows) + "\n")


def load_before(folder: Path) -> Scores:
    """What ``save_before`` kept."""
    rows = json.loads((folder / BEFORE).read_text(encoding="utf-8"))
    return {name: _scores(values) for name, values in rows.items()}


def save_outcome(folder: Path, outcome: Outcome) -> None:
    """Mark the arm as finished."""
    teachers = {name: _rows(values) for name, values in outcome.teachers.items()}
    scores = {"before": _rows(outcome.before), "after": _rows(outcome.after), "teachers": teachers}
    text = json.dumps(asdict(outcome) | scores)
    atomic_write_text(folder / OUTCOME, text + "\n")


def load_outcome(folder: Path) -> Outcome | None:
    """The finished arm; None if it is not finished."""
    path = folder / OUTCOME
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(
        num_steps=found["num_steps"],
        inputs=Inputs(**found["inputs"]),
        before=_scores(found["before"]),
        after=_scores(found["after"]),
        teachers={name: _scores(rows) for name, rows in found["teachers"].items()},
        tally=Tally(**found["tally"]),
    )


def _rows(scores: Sequence[DocumentScore]) -> list[tuple[float, int, int]]:
    return [astuple(score) for score in scores]


def _scores(rows: Sequence[Sequence[Any]]) -> list[DocumentScore]:
    return [DocumentScore(*row) for row in rows]
