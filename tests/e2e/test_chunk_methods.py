"""p_kl, h_kl, gold and uld through the whole system on toys, without cross-entropy."""

import json

import pytest

from orchestrator.config import load_run
from orchestrator.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

METHODS = ("p_kl", "h_kl", "gold", "uld")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smoke run with its SentencePiece teacher alone, whose tokenizer is not the student's."""
    folder = tmp_path_factory.mktemp("run") / "chunks"
    teacher = {
        "name": "sentencepiece",
        "model": "asset:toy/sentencepiece",
        "weight": 1.0,
        "device": "cpu",
        "methods": [
            {"name": "p_kl", "learnable_w": True},
            *({"name": name} for name in METHODS[1:]),
        ],
    }
    overrides = [
        f"teachers={json.dumps([teacher])}",
        "mixture.ce_weight=0",
        "compare.ce_only=null",
        "train.max_steps=12",
        "train.gradient_share_steps=12",
        f"output_dir={folder}",
    ]
    return train(load_run("smoke.yaml", overrides)), folder


def test_student_gets_better_alone(run):
    bits = run[0].bits_per_byte
    assert bits.distilled < bits.before - 0.3


def test_every_loss_falls(run):
    lines = [json.loads(line) for line in (run[1] / "metrics.jsonl").read_text().splitlines()]
    for name in METHODS:
        values = [line[f"teacher/sentencepiece/{name}/kd_loss"] for line in lines]
        assert min(values) >= 0
        assert values[-1] < values[0]
