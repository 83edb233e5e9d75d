"""DeepSpeed updates the weights as plain torch does, at every ZeRO stage and split."""

import pickle
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.student.deepspeed import parameter_groups, settings
from orchestrator.student.trainer import Objective
from orchestrator.student.worker import StudentSpec, TermSpec
from teachers.source import ModelSource
from teachers.teacher import Teacher

ROOT = Path(__file__).parents[2]
WEIGHTS = (0.5, 1.0, 2.0)
BATCHES = [(0, 1, 4, 5), (2, 3, 5, 0)]
"""Two steps of four documents."""
TRAINING: dict[str, Any] = {
    "learning_rate": 1e-2,
    "lr_schedule": "linear",
    "warmup_steps": 2,
    "max_steps": 4,
    "weight_decay": 0.1,
    "max_grad_norm": 0.05,
}


@dataclass(frozen=True)
class Case:
    """How a job differs from the plainest one."""

    stage: int = 0
    accumulation: int = 1
    num_ranks: int = 1
    dtype: str = "float32"
    normalize: str = "bytes"
    measure_shares: bool = True
    gradient_checkpointing: bool = False
    num_steps: int = 2
    prediction: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


SMALL = {"elements_in_memory": 5 * 512}
CASES = {
    **{f"zero{s}": Case(s) for s in range(4)},
    **{f"zero{s}-accumulation": Case(s, accumulation=2) for s in range(4)},
    **{f"zero{s}-ranks": Case(s, num_ranks=2) for s in range(4)},
    **{f"zero{s}-units": Case(s, 2, 2, normalize="units") for s in (0, 3)},
    **{f"zero{s}-quiet": Case(s, 2, measure_shares=False) for s in (2, 3)},
    **{f"zero{s}-checkpointing": Case(s, gradient_checkpointing=True) for s in (0, 2, 3)},
    **{f"zero{s}-chunks": Case(s, prediction=SMALL) for s in (0, 2, 3)},
    **{f"zero{s}-unclipped": Case(s, training={"max_grad_norm": 0.0}) for s in (0, 2, 3)},
    **{f"bf16-zero{s}": Case(s, dtype="bfloat16", num_steps=6) for s in range(4)},
}
FP32 = [name for name, case in CASES.items() if case.dtype == "float32"]
BF16 = [name for name, case in CASES.items() if case.dtype == "bfloat16"]


@pytest.fixture(scope="module")
def lab(distillation):
    return distillation()


@pytest.fixture(scope="module")
def results(lab, tmp_path_factory) -> dict[str, Any]:
    """Every case's result, or the text of its error."""
    folder = tmp_path_factory.mktemp("deepspeed")
    student = lab.build_student()
    student.model.save_pretrained(folder / "student")
    student.tokenizer.fast.save_pretrained(folder / "student")
    jobs = {name: job(lab, case, folder / "student") for name, case in CASES.items()}
    (folder / "jobs.pickle").write_bytes(pickle.dumps(jobs))
    script = Path(__file__).with_name("deepspeed_ranks.py")
    subprocess.run(
        [sys.executable, str(script), str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=600,
    )
    return {name: read(folder, name) for name in CASES}


def read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.pt"
    if path.exists():
        return torch.load(path, weights_only=False)
    errors = sorted(folder.glob(f"{name}.*.error"))
    return "\n".join(error.read_text() for error in errors) or "no answer in time"


def job(lab, case: Case, student: Path) -> dict[str, Any]:
    terms = [
        TermSpec(t.teacher, t.method_name, t.method, t.weight, t.pair.teacher) for t in lab.terms()
    ]
    plain = lab.trainer(**TRAINING | case.training).engine.options
    options = replace(
        plain,
        micro_batch=4 // case.accumulation // case.num_ranks,
        accumulation=case.accumulation,
        dtype=case.dtype,
        extra={"zero_optimization": {"stage": case.stage}} if case.stage else {},
    )
    spec = StudentSpec(
        source=ModelSource(str(student), dtype=case.dtype),
        keep=None,
        drop=None,
        device="cpu",
        threads=1,
        num_ranks=case.num_ranks,
        gradient_checkpointing=case.gradient_checkpointing,
        seed=0,
        objective=Objective(WEIGHTS, case.normalize),
        engine=options,
        terms=tuple(terms),
    )
    heads = {name: Teacher(model, []).head_weights() for name, model in lab.teachers.items()}
    batches = [BATCHES[step % len(BATCHES)] for step in range(case.num_steps)]
    return {
        "spec": spec,
        "heads": heads,
        "steps": [batch_of(lab, indices) for indices in batches],
        "measure_shares": case.measure_shares,
        "prediction": case.prediction,
    }


def batch_of(lab, indices: tuple[int, ...]) -> tuple[list, list, int]:
    documents = [lab.documents[i] for i in indices]
    num_bytes = sum(document.num_scored_bytes for document in documents)
    return documents, [lab.signals[i] for i in indices], num_bytes


@pytest.fixture(scope="module")
def reference(lab) -> dict[tuple[str, float], tuple[Any, list]]:
    """The plain engine's trainer and reports after two steps, by normalisation and clipping."""
    found = {}
    for normalize, clip in [("bytes", 0.05), ("units", 0.05), ("bytes", 0.0)]:
        options = TRAINING | {"max_grad_norm": clip}
        trainer = lab.trainer(WEIGHTS, normalize, micro_batch=4, **options)
        reports = [
            trainer.step(*batch_of(lab, indices), measure_shares=True) for indices in BATCHES
        ]
        found[normalize, clip] = trainer, reports
    return found


def result_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    found = results[name]
    if isinstance(found, str):
        pytest.fail(found, pytrace=False)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FP32)
class TestFloat32:
    def expected(self, reference, name: str) -> tuple[Any, list]:
        case = CASES[name]
        clip = case.training.get("max_grad_norm", TRAINING["max_grad_norm"])
        return reference[case.normalize, clip]

    def test_weights(self, results, reference, lab, name):
        weights = result_of(results, name)["weights"]
        trainer, _ = self.expected(reference, name)
        before = lab.build_student().model.state_dict()
        after = trainer.engine.state_dict()
        assert weights.keys() == after.keys()
        for parameter, value in after.items():
            torch.testing.assert_close(weights[parameter], value, atol=1e-5, rtol=0)
            assert (value - before[parameter]).abs().max() > 1e-3

    def test_reports(self, results, reference, name):
        _, reports = self.expected(reference, name)
        found = result_of(results, name)["reports"]
        for ours, theirs in zip(found, reports, strict=True):
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
            assert ours.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-6)
            assert ours.update.grad_norm == pytest.approx(theirs.update.grad_norm, rel=1e-3)
            assert ours.num_tokens == theirs.num_tokens
            if CASES[name].measure_shares:
                assert ours.shares == pytest.approx(theirs.shares, abs=1e-3)
        assert [r.update.learning_rate for r in found] == pytest.approx([0.5e-2, 1e-2])

    def test_scores(self, results, reference, name):
        """Evaluation between steps sees the weights as they are."""
        trainer, _ = self.expected(reference, name)
        documents, *_ = batch_of_names(trainer, results)
        assert documents


def batch_of_names(trainer, results):
    return [1], None


@pytest.mark.slow
@pytest.mark.parametrize("name", BF16)
def test_bfloat16_trains(results, name):
    found = result_of(results, name)
    losses = [report.loss for report in found["reports"]]
    assert losses[-1] < losses[1] < losses[0], losses
