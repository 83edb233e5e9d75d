"""What a run survives: fault × times injected × survived × weights equal to a run left alone.

    python -m benchmarks faults --steps 8 --out faults.jsonl
    python -m benchmarks faults --only teacher-killed rank-killed

The run is ``smoke.yaml``: two toy teachers, a toy student, all real processes. Faults come from
outside, by signals to the processes, and by a copy of a teacher whose weights are broken for some
tokens; only "out of memory" is made inside one process, where a model refuses batches of more than
so many tokens.
"""

import argparse
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import orchestrator.arm
from benchmarks.table import show
from orchestrator.assets import resolve
from orchestrator.cluster import Machine
from orchestrator.config import load_run
from orchestrator.errors import WorkerLost, exit_code
from orchestrator.run import train
from orchestrator.run_logs import log_of
from orchestrator.setup import set_up
from orchestrator.specs import teacher_specs

TEACHERS = ("bytelevel", "sentencepiece")
PATIENCE_S = 300.0
QUIET = ["compare.ce_only=null", "checks.documents=0", "data.held_out_limit=4"]

Plan = dict[int, list[str]]
"""Processes that get the signal when the driver begins to wait for a step."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    injected: int
    survived: str
    weights_equal: str
    seconds: float
    said: str = ""


@dataclass
class Injector:
    """Sends signals to processes at planned steps; the driver's waiting begins with it."""

    folder: Path
    plan: Plan
    signum: int = signal.SIGKILL
    hit: list[int] = field(default_factory=list)

    def __call__(self, arm: Any, request: Any, timeout_s: float) -> Any:
        for name in self.plan.get(request.batch.step, []):
            if request.batch.step not in self._done.get(name, set()):
                self._done.setdefault(name, set()).add(request.batch.step)
                pid = self._running(name)
                os.kill(pid, self.signum)
                self.hit.append(pid)
        return self._gather(arm, request, timeout_s)

    def end(self) -> None:
        """Kill what was only stopped: nobody else could."""
        if self.signum == signal.SIGSTOP:
            for pid in self.hit:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def __post_init__(self) -> None:
        self._gather = orchestrator.arm.gather
        self._done: dict[str, set[int]] = {}

    def _running(self, name: str) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while (pid := self._last(name)) in self.hit:
            if time.monotonic() > deadline:
                raise WorkerLost(f"{name} did not come back")
            time.sleep(0.1)
        return pid

    def _last(self, name: str) -> int:
        lines = log_of(self.folder, name).read_text(encoding="utf-8").splitlines()
        return [int(line.split()[2]) for line in lines if line.endswith("is ready")][-1]


@dataclass(frozen=True)
class Lab:
    """Runs of a few steps in a temporary folder; ``peaceful`` is the one left alone."""

    home: Path
    steps: int

    def run(self, name: str, injector: Callable[[Path], Injector], *more: str) -> Row:
        """Train under a fault; the row says what came of it."""
        folder, start = self.home / name, time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        inject = injector(folder)
        plain, said, survived = orchestrator.arm.gather, "", "yes"
        orchestrator.arm.gather = inject
        try:
            train(load_run("smoke.yaml", [*QUIET, *self._sizes, *more, f"output_dir={folder}"]))
        except WorkerLost as error:
            survived, said = f"no, exit {exit_code(error)}", str(error)
        finally:
            orchestrator.arm.gather = plain
            inject.end()
        seconds = round(time.perf_counter() - start, 1)
        return Row(name, len(inject.hit), survived, self._equal(folder), seconds, said)

    @property
    def _sizes(self) -> list[str]:
        return [f"train.max_steps={self.steps}", "train.save_steps=2"]

    def _equal(self, folder: Path) -> str:
        paths = [self.home / "left alone" / "final", folder / "final"]
        if not all(path.is_dir() for path in paths):
            return "-"
        ours, theirs = (load_file(path / "model.safetensors") for path in paths)
        return "yes" if all(torch.equal(ours[name], theirs[name]) for name in theirs) else "no"


def killing(plan: Plan, signum: int = signal.SIGKILL) -> Callable[[Path], Injector]:
    """Sends a signal as planned."""
    return lambda folder: Injector(folder, plan, signum)


def left_alone(lab: Lab) -> Row:
    """Nothing happens."""
    return lab.run("left alone", killing({}))


def teacher_killed(lab: Lab) -> Row:
    """``kill -9`` of a teacher at every step, in turns."""
    plan = {step: [TEACHERS[step % 2]] for step in range(lab.steps)}
    return lab.run("teacher killed", killing(plan), f"faults.teacher_restarts={lab.steps}")


def rank_killed(lab: Lab) -> Row:
    """``kill -9`` of the student's rank in the middle, twice; teachers stay."""
    plan = {lab.steps // 2: ["student/0"], lab.steps - 1: ["student/0"]}
    return lab.run("rank killed", killing(plan), "faults.student_restarts=2")


def one_of_two_ranks_killed(lab: Lab) -> Row:
    """The other rank misses it in a collective; both start again."""
    two = ["student.num_ranks=2", "train.micro_batch=2"]
    alone = lab.run("two ranks left alone", killing({}), *two)
    row = lab.run("one of two ranks killed", killing({lab.steps // 2: ["student/1"]}), *two)
    if alone.survived != "yes" or row.survived != "yes":
        return row
    pair = [lab.home / name / "final/model.safetensors" for name in (alone.fault, row.fault)]
    ours, theirs = map(load_file, pair)
    same = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    return Row(**{**asdict(row), "weights_equal": "yes" if same else "no"})


def teacher_dropped(lab: Lab) -> Row:
    """A teacher that may not start again is dropped; the weights differ by intention."""
    faults = "faults={teacher_restarts: 0, teacher_lost: drop}"
    return lab.run("teacher gone, drop", killing({lab.steps // 2: ["sentencepiece"]}), faults)


def teacher_gone(lab: Lab) -> Row:
    """The same under ``abort``."""
    plan = {lab.steps // 2: ["sentencepiece"]}
    return lab.run("teacher gone, abort", killing(plan), "faults.teacher_restarts=0")


def rank_hangs(lab: Lab) -> Row:
    """A rank that is stopped, as one in a deadlock, is named; the run ends."""
    plan = {lab.steps // 2: ["student/0"]}
    return lab.run("rank hangs", killing(plan, signal.SIGSTOP), "train.timeout_s=40")


def broken_documents(lab: Lab) -> Row:
    """A teacher whose embeddings of some tokens are infinite."""
    broken, start = lab.home / "broken teacher", time.perf_counter()
    shutil.copytree(resolve("asset:toy/sentencepiece"), broken, dirs_exist_ok=True)
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "embed_tokens" in name)
    weights[name][-8:] = torch.inf  # the rarest tokens
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    model = f"teachers.sentencepiece.model={broken}"
    row = lab.run("documents not finite", killing({}), model, "faults.bad_documents=1.0")
    lines = (lab.home / row.fault / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = round(time.perf_counter() - start, 1)
    changed = {"injected": len(lines), "seconds": seconds}
    return Row(**{**asdict(row), **changed})


def out_of_memory(lab: Lab) -> Row:
    """A model that takes at most 300 tokens at once; signals against those of one that has room."""
    start = time.perf_counter()
    config = load_run("smoke.yaml", [f"output_dir={lab.home / 'memory'}"])
    documents = set_up(config).train.documents[:32]
    spec = teacher_specs(config, Machine(1, 0.0))[0]
    expected, failures = spec.build().signals(documents), []

    def refuse(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > 300:
            failures.append(kwargs["input_ids"].numel())
            raise torch.OutOfMemoryError("out of memory")

    teacher: Any = spec.build()
    teacher.model.model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    rows = teacher.signals(documents)
    gap = max(
        float(abs(ours.hidden - theirs.hidden).max())
        for (ours,), (theirs,) in zip(rows, expected, strict=True)
    )
    seconds = round(time.perf_counter() - start, 1)
    said = f"token_budget 4096 -> {teacher.budget.tokens}"
    return Row("out of memory", len(failures), "yes", f"signals to {gap:.0e}", seconds, said)


FAULTS: dict[str, Callable[[Lab], Row]] = {
    "teacher-killed": teacher_killed,
    "rank-killed": rank_killed,
    "one-of-two-ranks-killed": one_of_two_ranks_killed,
    "teacher-dropped": teacher_dropped,
    "teacher-gone": teacher_gone,
    "rank-hangs": rank_hangs,
    "broken-documents": broken_documents,
    "out-of-memory": out_of_memory,
}


def measure(names: Sequence[str], steps: int, out: Path | None) -> list[Row]:
    """The run left alone, then one under each fault."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as home:
        lab = Lab(Path(home), steps)
        for fault in (left_alone, *(FAULTS[name] for name in names)):
            rows.append(fault(lab))
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(rows[-1])) + "\n")
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=sorted(FAULTS), default=list(FAULTS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.steps < 3:
        parser.error("--steps: expected at least 3, the faults fall on different ones")
    alone, *rows = measure(options.only, options.steps, options.out)
    times = [{"/ left alone": f"{row.seconds / alone.seconds:.1f}"} for row in (alone, *rows)]
    shown = [asdict(row) for row in (alone, *rows)]
    show("What a run survives", [row | more for row, more in zip(shown, times, strict=True)])


if __name__ == "__main__":
    main()
