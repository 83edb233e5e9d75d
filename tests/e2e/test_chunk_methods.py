"""p_kl, h_kl, gold and uld through the whole system on toys, with next to no cross-entropy.

Half of the documents also go to a second teacher, and the weights follow the losses: ``dynamic``
and ``routing`` on real processes.
"""

import json
from pathlib import Path

import pytest

from orchestrator.assets.toy.text import toy_split
from orchestrator.config import load_run
from orchestrator.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

METHODS = ("p_kl", "h_kl", "gold", "uld")
TERMS = (*(f"sentencepiece/{name}" for name in METHODS), "bytelevel/kl")
TABLE = {"one": ["sentencepiece"], "both": ["sentencepiece", "bytelevel"]}
"""The first teacher's tokenizer is not the student's."""


def teacher(name: str, *methods: dict[str, object]) -> dict[str, object]:
    model = f"asset:toy/{name}"
    return {"name": name, "model": model, "device": "cpu", "weight": 1.0, "methods": methods}


def write_rows(path: Path) -> None:
    rows = [
        {"text": row.text, "kind": "both" if index % 2 else "one"}
        for index, row in enumerate(toy_split().train[:120])
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture(scope="module")
def run(shared_ray, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_rows(folder / "train.jsonl")
    chunks = [{"name": "p_kl", "learnable_w": True}, *({"name": n} for n in METHODS[1:])]
    teachers = [teacher("sentencepiece", *chunks), teacher("bytelevel", {"name": "kl"})]
    overrides = [
        f"teachers={json.dumps(teachers)}",
        f"data.train=[{folder}/train.jsonl]",
        "data.held_out_limit=30",
        "mixture.ce_weight=0.01",
        "mixture.weights={name: dynamic, decay: 0.0}",
        f"mixture.routing={json.dumps({'key': 'kind', 'table': TABLE})}",
        "compare.ce_only=null",
        "train.max_steps=12",
        "train.gradient_share_steps=12",
        f"output_dir={folder}/chunks",
    ]
    return train(load_run("smoke.yaml", overrides)), folder / "chunks"


@pytest.fixture(scope="module")
def lines(run):
    return [json.loads(line) for line in (run[1] / "metrics.jsonl").read_text().splitlines()]


def test_student_gets_better_alone(run):
    bits = run[0].bits_per_byte
    assert bits.distilled < bits.before - 0.3


def test_every_loss_falls(lines):
    for name in METHODS:
        values = [line[f"teacher/sentencepiece/{name}/kd_loss"] for line in lines]
        assert min(values) >= 0
        assert values[-1] < values[0]


def test_one_teacher_reads_some_of_the_documents(lines):
    """A weight is the mean over a step's bytes: that of ``kl`` counts the routed ones alone."""
    shares = [
        line["teacher/bytelevel/kl/weight"] / line["teacher/sentencepiece/gold/weight"]
        for line in lines
    ]
    assert 0 < min(shares) < max(shares) < 1
    assert 0.3 < sum(shares) / len(shares) < 0.7


def test_weights_follow_the_losses_of_the_step_before(lines):
    """All terms' weights are CE / K; the first step reads a probe of its own batch."""
    for before, now in zip([lines[0], *lines], lines, strict=False):
        was, scale = scale_of(before), scale_of(now)
        for name in METHODS:
            assert now[f"teacher/sentencepiece/{name}/weight"] == pytest.approx(scale)
        losses = [before[f"teacher/{t}/kd_loss"] * before[f"teacher/{t}/weight"] for t in TERMS]
        mean = sum(losses) / was / len(TERMS)
        assert scale == pytest.approx(before["ce_loss"] / mean, rel=1e-4)
    assert {line["ce_weight"] for line in lines} == {0.01}


def scale_of(line: dict[str, float]) -> float:
    return line["teacher/sentencepiece/gold/weight"]
