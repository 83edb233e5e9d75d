"""Two arms killed for real and resumed; finished and changed runs; two ranks from the start.

What every run of the tests kills and resumes is in test_smoke_run, beside the run left alone.
"""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.config import load_run
from orchestrator.run import train
from orchestrator.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly]


def test_killed_three_times_in_both_arms(program, smoke, tmp_path):
    _, peaceful = smoke
    run = tmp_path / "run"
    program.stop_at(program.start(run), run, 4, signal.SIGKILL)
    assert not (run / "outcome.json").exists()
    program.stop_at(program.start(run, "--resume"), run, 12, signal.SIGKILL)
    program.stop_at(program.start(run, "--resume"), run / "ce_only", 5, signal.SIGKILL)
    finished = (run / "outcome.json").stat().st_mtime_ns
    program.finish(program.start(run, "--resume"))
    assert (run / "outcome.json").stat().st_mtime_ns == finished  # the first arm stayed as it was
    for arm in (Path(), Path("ce_only")):
        assert program.numbers_of(run / arm) == program.numbers_of(peaceful / arm)
        ours, theirs = (load_file(f / arm / "final/model.safetensors") for f in (run, peaceful))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    scores = [json.loads((f / "summary.json").read_text()) for f in (run, peaceful)]
    assert scores[0]["bits_per_byte"] == scores[1]["bits_per_byte"]


@pytest.fixture(scope="module")
def saved(program, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    program.finish(program.start(folder))
    return folder


def test_finished_run_is_only_told_again(program, saved):
    before = (saved / "metrics.jsonl").read_text()
    program.finish(program.start(saved, "--resume"))
    assert (saved / "metrics.jsonl").read_text() == before


def test_changed_run_file_is_refused(program, saved):
    process = program.start(saved, "train.learning_rate=1.0e-4", "--resume")
    _, errors = process.communicate(timeout=program.patience_s)
    assert process.returncode == 2
    assert "train.learning_rate: 0.003 -> 0.0001" in errors


def test_two_ranks_under_zero_give_the_same_losses(program, smoke, tmp_path):
    """Ranks, micro-batches, ZeRO and gradient checkpointing do not change the mathematics."""
    overrides = [
        "student.num_ranks=2",
        "student.gradient_checkpointing=true",
        "train.save_steps=3",
        "train.micro_batch=2",
        "train.max_steps=6",
        "train.gradient_share_steps=6",
        "compare.ce_only=null",
        "deepspeed={zero_optimization: {stage: 1}}",
        f"output_dir={tmp_path}/two",
    ]
    summary: Summary = train(load_run("smoke.yaml", overrides))
    losses = [[row["loss"] for row in program.rows_of(f)] for f in (tmp_path / "two", smoke[1])]
    assert losses[0] == pytest.approx(losses[1][:6], rel=1e-4)
    state = json.loads((tmp_path / "two" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state == {"step": 3}
    assert (tmp_path / "two" / "checkpoint-3" / "model.safetensors").is_file()
    for name, share in summary.gradient_share.items():
        first = program.rows_of(smoke[1])[0]
        key = "ce_gradient_share" if name == "ce" else f"teacher/{name}/gradient_share"
        assert share == pytest.approx(first[key], rel=0.05)
