"""Processes that are killed with ``kill -9`` in the middle of a run: it goes on, bit for bit.

One run bears it all: a teacher dies twice, the other once, then the student's rank.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import orchestrator.arm
from orchestrator.config import load_run
from orchestrator.run import train
from orchestrator.run_logs import log_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SHORT = [
    "compare.ce_only=null",
    "checks.documents=0",
    "data.held_out_limit=4",
    "train.max_steps=6",
    "train.save_steps=2",
]
PATIENCE_S = 120.0


class Killer:
    """Kills processes when the driver begins to wait for the signals of a step."""

    def __init__(self, folder: Path, plan: dict[int, list[str]]) -> None:
        self.folder, self.plan = folder, plan
        self.killed: list[int] = []
        self.gather = orchestrator.arm.gather

    def __call__(self, arm: Any, request: Any, timeout_s: float) -> Any:
        for name in self.plan.pop(request.batch.step, []):
            pid = self.running(name)
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)
        return self.gather(arm, request, timeout_s)

    def running(self, name: str) -> int:
        """The process that is ready and was not killed yet."""
        deadline = time.monotonic() + PATIENCE_S
        while (pid := started(self.folder, name)[-1]) in self.killed:
            assert time.monotonic() < deadline, f"{name} did not come back"
            time.sleep(0.1)
        return pid


def started(folder: Path, name: str) -> list[int]:
    """The processes of a teacher or rank that became ready, one after another."""
    lines = log_of(folder, name).read_text().splitlines()
    return [int(line.split()[2]) for line in lines if line.endswith("is ready")]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(shared_ray, tmp_path_factory) -> Callable[..., Path]:
    """Train, killing as planned; gives the run's folder."""

    def train_under(plan: dict[int, list[str]], *more: str) -> Path:
        folder = tmp_path_factory.mktemp("run") / "run"
        killer = Killer(folder, dict(plan))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(orchestrator.arm, "gather", killer)
            train(load_run("smoke.yaml", [*SHORT, *more, f"output_dir={folder}"]))
        assert not killer.plan
        return folder

    return train_under


@pytest.fixture(scope="module")
def peaceful(run) -> Path:
    return run({})


def test_killed_processes_come_back(run, peaceful, caplog):
    plan = {1: ["bytelevel"], 3: ["bytelevel"], 4: ["sentencepiece"], 5: ["student/0"]}
    folder = run(plan)
    ours, theirs = (load_file(f / "final/model.safetensors") for f in (folder, peaceful))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    numbers = [[(row["step"], row["loss"]) for row in metrics(f)] for f in (folder, peaceful)]
    assert numbers[0] == numbers[1]
    assert "student/0 died" in caplog.text
    assert "THE RANKS START AGAIN" in caplog.text
    names = ("bytelevel", "sentencepiece", "student/0")
    assert [len(started(folder, name)) for name in names] == [3, 2, 2]  # teachers stayed warm


def test_a_teacher_that_does_not_come_back_is_dropped(run, peaceful, caplog):
    faults = "faults={teacher_restarts: 0, teacher_lost: drop}"
    folder = run({2: ["sentencepiece"]}, faults)
    rows = metrics(folder)
    assert len(rows) == 6
    first = next(step for step, row in enumerate(rows) if "teacher/sentencepiece/dropped" in row)
    assert first >= 2  # what it had said before still counted
    assert [row["teacher/bytelevel/kl/weight"] for row in rows] == pytest.approx(
        [1.0] * first + [6.0] * (6 - first)
    )
    kept = [row["loss"] for row in metrics(peaceful)[:first]]
    assert [row["loss"] for row in rows[:first]] == kept
    assert f"TEACHER sentencepiece IS DROPPED from step {first} on" in caplog.text
    tally = json.loads((folder / "outcome.json").read_text())["tally"]
    assert tally["dropped"] == {"sentencepiece": first}
