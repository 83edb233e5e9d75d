"""The gates on the actors of a run, and what is written about them."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from losses.document import Document
from orchestrator.actors import collect
from orchestrator.arm import Arm
from orchestrator.atomic import atomic_write_text
from orchestrator.config import RunConfig
from orchestrator.config.checks import ChecksConfig
from orchestrator.errors import ConfigError
from orchestrator.gates.chosen import FIRST, spread
from orchestrator.gates.verdict import Gates, Verdict

log = logging.getLogger(__name__)


def check_arm(arm: Arm, documents: Sequence[Document], config: RunConfig, folder: Path) -> None:
    """Run the gates on every rank; ``gates.json`` in the folder tells what was measured.

    Raises:
        ConfigError: a gate is not passed; names teacher, method and document.
    """
    chosen = spread(documents[:FIRST], config.checks.documents)
    chosen = [replace(document, teachers=None) for document in chosen]  # all teachers read them
    if not chosen:
        return
    start, gates = time.perf_counter(), gates_of(config.checks)
    references = {name: teacher.signals.remote(chosen) for name, teacher in arm.teachers.items()}
    pending = {
        name: student.check.remote(chosen, references, gates)
        for name, student in arm.students.items()
    }
    # A rank itself waits up to timeout_s for each teacher, and names the one that is late.
    limit = (1 + len(arm.teachers)) * config.train.timeout_s
    verdicts = next(iter(collect(pending, limit, "checking before the first step").values()))
    report(verdicts, chosen, folder, time.perf_counter() - start)


def gates_of(checks: ChecksConfig) -> Gates:
    """What a rank needs to know of the run file."""
    return Gates(
        identity=checks.identity,
        likelihood=checks.likelihood,
        chunked=checks.chunked,
        order=checks.order,
        min_coverage=checks.min_coverage if checks.coverage else None,
        tolerance=checks.tolerance,
    )


def report(
    verdicts: Sequence[Verdict], documents: Sequence[Document], folder: Path, seconds: float
) -> None:
    """Write ``gates.json`` and a line of the log.

    Raises:
        ConfigError: a gate is not passed.
    """
    rows = [asdict(verdict) | {"passed": verdict.passed} for verdict in verdicts]
    names = [document.name for document in documents]
    content = {"documents": names, "seconds": round(seconds, 3), "gates": rows}
    atomic_write_text(folder / "gates.json", json.dumps(content, indent=2) + "\n")
    if failed := [verdict.problem for verdict in verdicts if not verdict.passed]:
        raise ConfigError("\n".join(failed))
    log.info("%d gates passed on %d documents in %.1f s", len(verdicts), len(names), seconds)
