"""What a run writes down as it goes: JSON lines and TensorBoard, under the same names."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from orchestrator.atomic import atomic_write_text
from orchestrator.checkpoint import Tally
from orchestrator.student.trainer import StepReport

METRICS = "metrics.jsonl"


class MetricsWriter:
    """``metrics.jsonl`` (one object a line: ``time``, ``step``, then names) and ``tb/``.

    TensorBoard forgets what an earlier process wrote from ``first_step`` on.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tb"), purge_step=first_step or None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step's values."""
        self._lines.write(json.dumps({"time": time.time(), "step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Force what was written to disk: a checkpoint must not know more than the metrics."""
        os.fsync(self._lines.fileno())

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._board.close()


def cut_metrics(folder: Path, step: int) -> None:
    """Move lines from ``step`` on, and a torn last one, to ``metrics.cut-….jsonl``.

    A resumed run writes these steps again, so each is there once.
    """
    path = folder / METRICS
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _is_before(line, step)]
    cut = [line for line in lines if not _is_before(line, step)]
    if cut:
        atomic_write_text(folder / f"metrics.cut-{time.time_ns()}.jsonl", "".join(cut))
        atomic_write_text(path, "".join(kept))


def _is_before(line: str, step: int) -> bool:
    if not line.endswith("\n"):
        return False
    try:
        return int(json.loads(line)["step"]) < step
    except (ValueError, KeyError, TypeError):
        return False


def step_metrics(
    report: StepReport, names: tuple[str, ...], waited: Mapping[str, float], step_time: float
) -> dict[str, float]:
    """One step as flat metrics.

    Args:
        report: the step, summed over ranks.
        names: ``ce`` and each ``teacher/method``, in the order of the report.
        waited: seconds the slowest rank waited for each teacher.
        step_time: seconds of the whole step, seen from the driver.
    """
    values = {
        "loss": report.loss,
        "grad_norm": report.update.grad_norm,
        "learning_rate": report.update.learning_rate,
        "num_tokens": float(report.num_tokens),
        "step_time": step_time,
        "perf/tokens_per_s": report.num_tokens / step_time,
        "timing/teacher_wait": sum(waited.values()),
    }
    values |= {f"timing/{_TIMINGS.get(k, k)}": seconds for k, seconds in report.seconds.items()}
    values |= {f"teacher/{name}/wait_s": seconds for name, seconds in waited.items()}
    for name, value in zip(names, report.losses, strict=True):
        values["ce_loss" if name == "ce" else f"teacher/{name}/kd_loss"] = value
    for name, weight in zip(names, report.weights, strict=True):
        values["ce_weight" if name == "ce" else f"teacher/{name}/weight"] = weight
    values |= {f"teacher/{name}": value for name, value in report.metrics.items()}
    for name, share in gradient_shares(report, names).items():
        values["ce_gradient_share" if name == "ce" else f"teacher/{name}/gradient_share"] = share
    return values


def fault_metrics(tally: Tally) -> dict[str, float]:
    """What went wrong up to now, only where something did: dropped teachers, failed documents."""
    dropped = {f"teacher/{name}/dropped": 1.0 for name in tally.dropped}
    bad = {f"teacher/{n}/bad_documents": float(len(d)) for n, d in tally.bad_documents.items()}
    return dropped | bad


def gradient_shares(report: StepReport, names: tuple[str, ...]) -> dict[str, float]:
    """Shares by ``ce`` and teacher, a teacher's methods added up; empty if not measured."""
    found: dict[str, float] = {}
    for name, share in zip(names, report.shares or (), strict=False):
        teacher = name.split("/")[0]
        found[teacher] = found.get(teacher, 0.0) + share
    return found


_TIMINGS = {"forward": "student_forward", "backward": "student_backward"}
