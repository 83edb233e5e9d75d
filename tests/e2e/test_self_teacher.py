"""A toy model gets bytes and learns from itself; the teacher has a process or lives in a rank."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.config import load_run
from orchestrator.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

METHODS = [{"name": "alm"}, {"name": "p_kl"}, {"name": "bld", "converter": "on_path"}]
STAGES = [{"steps": 4, "trainable": "embeddings", "learning_rate": 0.01}, {"steps": 8}]
TARGETS = ["q_proj", "v_proj", "down_proj"]


def run(folder: Path, teacher: dict[str, Any], *more: str) -> tuple[Any, list[dict[str, float]]]:
    own = {"name": "own", "kind": "self", "methods": METHODS} | teacher
    overrides = [
        "student.init=asset:toy/bytelevel",
        f"teachers={json.dumps([own])}",
        "mixture.ce_weight=0.1",
        "compare.ce_only=null",
        "train.max_steps=12",
        "train.warmup_steps=0",
        "train.global_batch=4",
        "data.held_out_limit=20",
        f"output_dir={folder}",
        *more,
    ]
    summary = train(load_run("smoke.yaml", overrides))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return summary, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> dict[bool, Any]:
    """By whether the teacher shares the student's weights; gradmag, stages and adapters."""
    lora = {"rank": 4, "alpha": 8, "target_modules": TARGETS}
    more = [
        "student.tokenizer=bytes",
        f"student.lora={json.dumps(lora)}",
        f"train.stages={json.dumps(STAGES)}",
        "mixture.weights=gradmag",
        "data.max_length=256",
    ]
    return {
        shared: run(
            tmp_path_factory.mktemp("run") / f"shared-{shared}",
            {"share_weights": shared} | ({} if shared else {"device": "cpu"}),
            *more,
        )
        for shared in (False, True)
    }


def test_the_byte_student_recovers(adapted):
    bits = adapted[False][0].bits_per_byte
    assert bits.teachers["own"] < bits.distilled < bits.before - 0.3
    gap = (bits.before - bits.distilled) / (bits.before - bits.teachers["own"])
    assert adapted[False][0].gap_recovered == {"distilled": pytest.approx(gap)}


def test_the_teacher_inside_says_the_same(adapted):
    (one, ours), (other, theirs) = adapted[False], adapted[True]
    assert one.bits_per_byte.teachers == other.bits_per_byte.teachers
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    assert one.bits_per_byte.distilled == other.bits_per_byte.distilled
    assert {line["teacher/own/wait_s"] > 0 for line in theirs} == {True}


def test_the_final_model_opens_with_transformers_alone(adapted):
    folder = Path(adapted[True][0].checkpoint)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The café", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] == ids.shape[1] + 4


def test_a_teacher_that_follows_the_student(tmp_path):
    teacher = {
        "methods": [{"name": "kl"}],
        "refresh": {"every": 2, "decay": 0.5},
        "device": "cpu",
    }
    summary, lines = run(tmp_path / "run", teacher, "train.max_steps=5", "mixture.ce_weight=1.0")
    distances = [line["teacher/own/kl/kd_loss"] for line in lines]
    assert abs(distances[0]) < 1e-5 < min(distances[1:])
    assert [path.name for path in (tmp_path / "run" / "versions").iterdir()] == ["version-2"]
    bits = summary.bits_per_byte  # the toy was trained on such text: there is little to learn
    assert 0 < abs(bits.distilled - bits.before) < 0.2
