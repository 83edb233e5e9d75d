"""One loss of two teachers' combined targets through the whole system, on toys."""

import json

import pytest

from orchestrator.config import load_run
from orchestrator.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(shared_ray, tmp_path_factory):
    """The smoke run with ``kl`` of both teachers; one has another vocabulary and comes by W⁻."""
    folder = tmp_path_factory.mktemp("run") / "targets"
    teachers = [
        {"name": n, "model": f"asset:toy/{n}", "device": "cpu", "methods": [{"name": "kl"}]}
        for n in ("bytelevel", "sentencepiece")
    ]
    overrides = [
        f"teachers={json.dumps(teachers)}",
        "mixture.combine=targets",
        "mixture.mean=geometric",
        "mixture.ce_weight=0",
        "compare.ce_only=null",
        "data.held_out_limit=30",
        "train.max_steps=10",
        f"output_dir={folder}",
    ]
    return train(load_run("smoke.yaml", overrides)), folder


def test_student_gets_better_alone(run):
    bits = run[0].bits_per_byte
    assert bits.distilled < bits.before - 0.3
    assert set(bits.teachers) == {"bytelevel", "sentencepiece"}


def test_metrics_know_one_loss_and_two_teachers(run):
    lines = [json.loads(line) for line in (run[1] / "metrics.jsonl").read_text().splitlines()]
    losses = [line["teacher/ensemble/kl/kd_loss"] for line in lines]
    assert min(losses) >= 0
    assert losses[-1] < losses[0]
    assert {line["teacher/ensemble/kl/weight"] for line in lines} == {2.0}
    assert "teacher/bytelevel/wait_s" in lines[0]
    assert "teacher/bytelevel/kl/kd_loss" not in lines[0]
    assert set(run[0].gradient_share) == {"ce", "ensemble"}
    verdicts = json.loads((run[1] / "gates.json").read_text())["gates"]
    assert {"bytelevel", "sentencepiece", "ensemble/kl"} <= {
        verdict["term"] for verdict in verdicts
    }
