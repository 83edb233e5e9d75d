"""The whole run, killed for real at several places, ends with the weights of the one left alone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from orchestrator.cli import main; main()", "train", "smoke.yaml"]
PATIENCE_S = 600.0


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    overrides = ["train.save_steps=2", f"output_dir={folder}", *more]
    return subprocess.Popen([*COMMAND, *overrides], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Its messages, when it ends well."""
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return errors


def stop_at(process: subprocess.Popen[str], arm: Path, step: int, signum: int) -> str:
    """Send a signal as soon as the arm has written this step, and wait for the end."""
    deadline = time.monotonic() + PATIENCE_S
    while step not in steps_of(arm):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signum)
    return process.communicate(timeout=PATIENCE_S)[1]


def rows_of(arm: Path) -> list[dict[str, float]]:
    path = arm / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_of(arm: Path) -> list[float]:
    return [row["step"] for row in rows_of(arm)]


def numbers_of(arm: Path) -> list[tuple[float, ...]]:
    names = ("step", "loss", "grad_norm", "learning_rate", "num_tokens")
    return [tuple(row[name] for name in names) for row in rows_of(arm)]


def assert_same(run: Path, peaceful: Path, arm: Path) -> None:
    """Same steps and same final weights, bit for bit."""
    assert numbers_of(run / arm) == numbers_of(peaceful / arm)
    ours, theirs = (load_file(f / arm / "final" / "model.safetensors") for f in (run, peaceful))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_killed_once(smoke, tmp_path):
    run, one = tmp_path / "run", "compare.ce_only=null"
    stop_at(start(run, one), run, 10, signal.SIGKILL)
    assert not (run / "outcome.json").exists()
    finish(start(run, one, "--resume"))
    assert_same(run, smoke[1], Path())


@pytest.mark.nightly
def test_killed_three_times(smoke, tmp_path):
    _, peaceful = smoke
    run = tmp_path / "run"
    stop_at(start(run), run, 4, signal.SIGKILL)
    assert not (run / "outcome.json").exists()
    stop_at(start(run, "--resume"), run, 12, signal.SIGKILL)
    stop_at(start(run, "--resume"), run / "ce_only", 5, signal.SIGKILL)
    finished = (run / "outcome.json").stat().st_mtime_ns
    finish(start(run, "--resume"))
    assert (run / "outcome.json").stat().st_mtime_ns == finished  # the first arm stayed as it was
    for arm in (Path(), Path("ce_only")):
        assert_same(run, peaceful, arm)
    scores = [json.loads((f / "summary.json").read_text()) for f in (run, peaceful)]
    assert scores[0]["bits_per_byte"] == scores[1]["bits_per_byte"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    finish(start(folder))
    return folder


@pytest.mark.nightly
def test_finished_run_is_only_told_again(saved):
    before = (saved / "metrics.jsonl").read_text()
    finish(start(saved, "--resume"))
    assert (saved / "metrics.jsonl").read_text() == before


@pytest.mark.nightly
def test_two_ranks_go_on_where_one_stopped(smoke, tmp_path):
    _, peaceful = smoke
    run = tmp_path / "run"
    one = ["compare.ce_only=null"]
    process = start(run, *one)
    errors = stop_at(process, run, 5, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: checkpoint-" in errors
    two = ["student.num_ranks=2", "deepspeed={zero_optimization: {stage: 2}}", "--resume"]
    errors = finish(start(run, *one, *two))
    assert "student.num_ranks: 1 -> 2; the numbers agree with the former ones to rounding" in errors
    ours, theirs = numbers_of(run), numbers_of(peaceful)
    assert [row[0] for row in ours] == list(range(len(theirs)))
    losses = [row[1] for row in theirs]
    assert [row[1] for row in ours] == pytest.approx(losses, rel=1e-5)


@pytest.mark.nightly
def test_changed_run_file_is_refused(saved):
    process = start(saved, "train.learning_rate=1.0e-4", "--resume")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "train.learning_rate: 0.003 -> 0.0001" in errors
