"""Stages, adapters and a running mean under DeepSpeed: as plain torch, and resumed bit for bit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from orchestrator.student.adapters import LoraOptions
from orchestrator.student.stages import Stage
from orchestrator.student.trainer import Objective
from orchestrator.student.worker import StudentSpec, TermSpec
from teachers.source import ModelSource
from teachers.teacher import Teacher

pytestmark = pytest.mark.slow

BATCHES = [(0, 1, 4, 5), (2, 3, 5, 0), (1, 2, 3, 4), (5, 4, 0, 1)]
BORDER = 2
STAGES = (Stage(BORDER, embeddings_only=True, learning_rate=2e-3), Stage(2))
LORA = LoraOptions(rank=3, alpha=6, dropout=0.1, target_modules=("q_proj", "up_proj"))
DECAY = 0.75
TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_schedule": "linear",
    "max_steps": 4,
    "weight_decay": 0.1,
    "max_grad_norm": 0.05,
}
EMBEDDINGS = {"model.model.embed_tokens.weight", "model.lm_head.weight"}


@dataclass(frozen=True)
class Case:
    """``first`` is where a case continues another one's state; 0 trains from the start."""

    stage: int = 0
    num_ranks: int = 1
    dtype: str = "float32"
    lora: LoraOptions | None = None
    stages: tuple[Stage, ...] = STAGES
    first: int = 0
    start: str = ""


WHOLE = {
    "zero0": Case(0),
    "zero1": Case(1),
    "zero2-ranks": Case(2, 2),
    "zero3-ranks": Case(3, 2),
    "bf16-zero3": Case(3, dtype="bfloat16"),
    "lora-zero0": Case(0, lora=LORA, stages=()),
    "lora-zero2-ranks": Case(2, 2, lora=LORA, stages=()),
    "lora-zero3-ranks": Case(3, 2, lora=LORA, stages=()),
}
RESUMED = {
    f"{name} resumed at {first}": replace(case, first=first, start=name)
    for name, case in WHOLE.items()
    for first in ((1, 2, 3) if case.stages else (2,))
}
CASES = {**WHOLE, **RESUMED}
QUICK = {
    *("zero0", "zero2-ranks", "zero3-ranks", "lora-zero3-ranks"),
    *("zero2-ranks resumed at 2", "zero3-ranks resumed at 2", "lora-zero3-ranks resumed at 2"),
}


def parameters(names: dict[str, Case]) -> list[Any]:
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.nightly) for n in names]


@pytest.fixture(scope="module")
def lab(distillation):
    return distillation()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lab) -> Path:
    found: Path = tmp_path_factory.mktemp("deepspeed-stages")
    student = lab.build_student()
    student.model.save_pretrained(found / "student")
    student.tokenizer.fast.save_pretrained(found / "student")
    return found


@pytest.fixture(scope="module")
def results(lab, zero, train_ranks, collected, folder) -> dict[str, Any]:
    asked = set(collected(Path(__file__).name, "name"))
    asked |= {CASES[name].start for name in asked} - {""}
    jobs = {n: job(lab, n, zero[c.stage], folder) for n, c in CASES.items() if n in asked}
    found: dict[str, Any] = train_ranks(jobs, folder)
    return found


def job(lab, name: str, extra: dict[str, Any], folder: Path) -> dict[str, Any]:
    case = CASES[name]
    terms = [
        TermSpec(t.teacher, t.method_name, t.method, t.weight, t.pair.teacher) for t in lab.terms()
    ]
    decay = None if case.lora else DECAY
    plain = lab.trainer(stages=case.stages, average_decay=decay, **TRAINING).engine.options
    sizes = {"micro_batch": 2, "accumulation": 2 // case.num_ranks}
    spec = StudentSpec(
        source=ModelSource(str(folder / "student"), dtype=case.dtype),
        keep=None,
        drop=None,
        device="cpu",
        threads=1,
        num_ranks=case.num_ranks,
        gradient_checkpointing=False,
        seed=99 if case.first else 0,
        objective=Objective((0.5, 1.0, 2.0), "bytes"),
        engine=replace(plain, dtype=case.dtype, extra=extra, **sizes),
        terms=tuple(terms),
        resume_from=folder / f"{case.start}.{case.first}" if case.first else None,
        lora=case.lora,
    )
    heads = {name: Teacher(model, []).head_weights() for name, model in lab.teachers.items()}
    return {
        "spec": spec,
        "heads": heads,
        "steps": [batch_of(lab, indices) for indices in BATCHES[case.first :]],
        "first": case.first,
        "saves": {n: folder / f"{name}.{n}" for n in (1, 2, 3) if n >= case.first},
        "versions": {} if case.lora else {3: folder / f"{name}.version"},
        "measure_shares": False,
        "elements_in_memory": 2**21,
    }


def batch_of(lab, indices: tuple[int, ...]) -> tuple[list, list, int]:
    documents = [lab.documents[i] for i in indices]
    num_bytes = sum(document.num_scored_bytes for document in documents)
    return documents, [lab.signals[i] for i in indices], num_bytes


def result_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    found = results[name]
    if isinstance(found, str):
        pytest.fail(found, pytrace=False)
    return found


STAGED = {n: c for n, c in WHOLE.items() if c.stages and c.dtype == "float32"}


@pytest.mark.parametrize("name", parameters(STAGED))
def test_stages_as_plain_torch(lab, results, name):
    trainer = lab.trainer(stages=STAGES, **TRAINING)
    expected = [trainer.step(*batch_of(lab, indices)) for indices in BATCHES]
    found = result_of(results, name)
    for ours, theirs in zip(found["reports"], expected, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
        assert ours.update.learning_rate == pytest.approx(theirs.update.learning_rate)
        assert ours.update.grad_norm == pytest.approx(theirs.update.grad_norm, rel=1e-4)
    for parameter, value in trainer.engine.state_dict().items():
        assert (found["weights"][parameter] - value).abs().max() < 2e-5, parameter


@pytest.mark.parametrize("name", parameters(RESUMED))
def test_resumed_bit_for_bit(results, folder, name):
    case, ours = CASES[name], result_of(results, name)
    theirs = result_of(results, case.start)
    for found, expected in zip(ours["reports"], theirs["reports"][case.first :], strict=True):
        assert found.losses == expected.losses
        assert found.update == expected.update
    for parameter, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][parameter]), parameter
    last = (folder / f"{case.start}.3", folder / f"{name}.3")
    files = [sorted(path.name for path in state.iterdir()) for state in last]
    assert files[0] == files[1]
    for file in files[0]:
        assert (last[0] / file).read_bytes() == (last[1] / file).read_bytes(), file


@pytest.mark.parametrize("name", parameters(WHOLE))
def test_state_has_what_is_trained(results, folder, name):
    case, _ = CASES[name], result_of(results, name)
    saved = [load_file(folder / f"{name}.{step}" / "weights.safetensors") for step in (1, 3)]
    moved = {n for n in saved[0] if not torch.equal(saved[0][n], saved[1][n])}
    moments = load_file(folder / f"{name}.1" / "exp_avg.safetensors")
    if case.lora:
        assert all(".lora_" in parameter for parameter in saved[0])
        assert moved == set(saved[0])
    else:
        assert EMBEDDINGS < set(saved[0]) == moved
        assert {n for n, value in moments.items() if value.any()} == EMBEDDINGS


def saved(folder: Path, name: str, step: int, kind: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.{step}" / f"{kind}.safetensors")


MEANS = {n: c for n, c in WHOLE.items() if not c.lora}


@pytest.mark.parametrize("name", parameters(MEANS))
def test_running_mean_of_the_masters(results, folder, name):
    result_of(results, name)
    for step in (2, 3):
        before, masters, after = (
            saved(folder, name, *place)
            for place in ((step - 1, "average"), (step, "weights"), (step, "average"))
        )
        assert any(not torch.equal(after[n], masters[n]) for n in masters)
        for parameter, mean in after.items():
            expected = torch.lerp(before[parameter], masters[parameter], 1.0 - DECAY)
            torch.testing.assert_close(mean, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", parameters(MEANS))
def test_a_version_is_the_mean_as_a_model(results, folder, name):
    result_of(results, name)
    version = AutoModelForCausalLM.from_pretrained(folder / f"{name}.version", dtype="float32")
    for parameter, value in version.named_parameters():
        assert torch.equal(value, saved(folder, name, 3, "average")[f"model.{parameter}"])
