"""What a run really took beside what was planned: printed at its end, kept in its summary."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.actors import collect
from orchestrator.atomic import atomic_write_text
from orchestrator.checkpoint import Tally
from orchestrator.config import RunConfig
from orchestrator.errors import WorkerLost
from orchestrator.planning.limits import in_gib
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.processes import CPU
from orchestrator.replicas import processes
from orchestrator.setup import STUDENT, Setup

log = logging.getLogger(__name__)

USAGE = "usage.json"


@dataclass(frozen=True)
class Usage:
    """What one arm took.

    Args:
        host: bytes of main memory at the peak, above the imports, by process: the largest of the
            replicas of a teacher (by its name) and of the ranks (``student``).
        gpu: the same of the GPU.
        received: bytes of the signals' fields that all ranks received from each teacher.
        num_steps: steps in which they were received.
    """

    host: Mapping[str, int]
    gpu: Mapping[str, int]
    received: Mapping[str, int]
    num_steps: int

    def save(self, folder: Path) -> None:
        """Write ``usage.json``."""
        atomic_write_text(folder / USAGE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Usage | None":
        """What ``save`` wrote; None if it did not."""
        path = folder / USAGE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


@dataclass(frozen=True)
class Line:
    """One number of the plan, and what it came to."""

    name: str
    planned: int | float
    actual: int | float
    unit: str

    @property
    def error(self) -> float:
        """By how much of the actual number the plan is above it."""
        return (self.planned - self.actual) / self.actual if self.actual else 0.0

    def __str__(self) -> str:
        shown = [
            in_gib(n) if self.unit == "B" else f"{n:.2f} s" for n in (self.planned, self.actual)
        ]
        if self.unit == "B" and self.actual < 2**20:
            shown = [f"{n:,.0f} B" for n in (self.planned, self.actual)]
        return f"{self.name}: {shown[0]} planned, {shown[1]} actual ({self.error:+.0%})"


def measure(teachers: Mapping[str, Any], students: Mapping[str, Any], timeout_s: float) -> Usage:
    """Ask every process that is alive.

    Args:
        teachers: handles by name; those without a process of their own are not asked.
        students: ranks by name.
        timeout_s: in which all must answer.
    """
    asked = {
        f"{name}/{number}": actor.peak_memory.remote()
        for name, handle in [*teachers.items(), (STUDENT, None)]
        for number, actor in enumerate(_actors(name, handle, students))
    }
    found: dict[str, Any] = {}
    for name, reference in asked.items():
        try:
            found |= collect({name: reference}, timeout_s, "measuring memory")
        except WorkerLost as error:  # the training is done: nobody needs it any more
            log.warning("the memory of %s is not known: %s", name, error)
    received = collect(
        {name: processes(s)[0].received_bytes.remote() for name, s in students.items()},
        timeout_s,
        "counting bytes",
    )
    host: dict[str, int] = {}
    gpu: dict[str, int] = {}
    for name, peak in found.items():
        owner = name.rpartition("/")[0]
        host[owner] = max(host.get(owner, 0), peak.host)
        gpu[owner] = max(gpu.get(owner, 0), peak.gpu)
    counts = list(received.values())
    sums = {name: sum(c.num_bytes.get(name, 0) for c in counts) for name in counts[0].num_bytes}
    return Usage(host, gpu, sums, counts[0].num_steps)


def _actors(name: str, handle: Any, students: Mapping[str, Any]) -> Iterator[Any]:
    handles = students.values() if name == STUDENT else [handle]
    for one in handles:
        yield from (actor for actor in processes(one) if hasattr(actor, "peak_memory"))


def lines(plan: Plan, usage: Usage, tally: Tally) -> list[Line]:
    """The plan's numbers beside those of the distilled arm."""
    found = [Line("step time", plan.step.seconds, tally.seconds / plan.num_steps, "s")]
    for name, wire in plan.wire.items():
        if usage.num_steps and name in usage.received:
            actual = usage.received[name] / usage.num_steps
            found.append(Line(f"signals of {name} a step", wire.fields_per_step, actual, "B"))
    for name, process in plan.processes.items():
        taken = usage.host if process.device == CPU else usage.gpu
        if name in taken:
            where = "" if process.device == CPU else ", GPU"
            found.append(Line(f"memory of {name}{where}", process.memory.peak, taken[name], "B"))
    return found


def against_plan(config: RunConfig, setup: Setup, folder: Path, tally: Tally) -> list[str]:
    """Sentences for the end of a run; none, and a warning, if it cannot be planned or measured.

    The run is over, so nothing here may spoil it.
    """
    usage = Usage.load(folder)
    try:
        found = lines(plan(config, setup=setup), usage, tally) if usage else []
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        log.warning("no plan to compare this run with (%s: %s)", type(error).__name__, error)
        return []
    return [str(line) for line in found]
