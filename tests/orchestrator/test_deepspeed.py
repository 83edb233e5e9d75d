"""DeepSpeed updates the weights as plain torch does, at every ZeRO stage and split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from losses.prediction import ELEMENTS_IN_MEMORY
from orchestrator.student.deepspeed import parameter_groups, settings
from orchestrator.student.trainer import Objective, StepReport
from orchestrator.student.worker import StudentSpec, TermSpec
from teachers.backends.transformers import LanguageModel
from teachers.document_score import DocumentScore
from teachers.source import ModelSource
from teachers.teacher import Teacher

WEIGHTS = (0.5, 1.0, 2.0)
BATCHES = [(0, 1, 4, 5), (2, 3, 5, 0)]
"""Two steps of four documents."""
TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_schedule": "linear",
    "warmup_steps": 2,
    "max_steps": 4,
    "weight_decay": 0.1,
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
    elements_in_memory: int = ELEMENTS_IN_MEMORY
    max_grad_norm: float = 0.05
    tied: bool = False


SMALL = 5 * 512
"""Elements in memory: documents longer than five tokens are read in several row chunks."""
CASES = {
    **{f"zero{s}": Case(s) for s in range(4)},
    **{f"zero{s}-accumulation": Case(s, accumulation=2) for s in (0, 2)},
    **{f"zero{s}-ranks": Case(s, num_ranks=2) for s in (0, 1, 2)},
    "zero0-everything": Case(0, 2, 2, elements_in_memory=SMALL, gradient_checkpointing=True),
    "zero3-everything": Case(3, 2, 2, elements_in_memory=SMALL, gradient_checkpointing=True),
    "zero3-units": Case(3, 2, 2, normalize="units"),
    **{f"zero{s}-unshared": Case(s, 2, measure_shares=False) for s in (2, 3)},
    **{f"zero{s}-tied": Case(s, 2, tied=True) for s in (0, 3)},
    "zero0-unclipped": Case(0, max_grad_norm=0.0),
    "zero2-unclipped": Case(2, max_grad_norm=0.0),
    **{f"bf16-zero{s}": Case(s, dtype="bfloat16", num_steps=4) for s in (0, 2, 3)},
    "bf16-ranks": Case(0, 2, 2, dtype="bfloat16", num_steps=4),
}
QUICK = {
    "zero0",
    "zero0-everything",
    "zero3-everything",
    "zero2-unshared",
    "zero3-tied",
    "zero2-unclipped",
    "bf16-zero3",
    "bf16-ranks",
}
"""Every stage and option is among these; the others take a minute more and are nightly."""


def cases_of(dtype: str) -> list[Any]:
    names = [name for name, case in CASES.items() if case.dtype == dtype]
    nightly = pytest.mark.nightly
    return [pytest.param(name, marks=() if name in QUICK else nightly) for name in names]


@pytest.fixture(scope="module")
def labs(distillation) -> dict[bool, Any]:
    """By whether the student's head is its embedding."""
    return {tied: distillation(student={"tie_word_embeddings": tied}) for tied in (False, True)}


@pytest.fixture(scope="module")
def results(labs, zero, train_ranks, collected, tmp_path_factory) -> dict[str, Any]:
    """Every asked case's result, or the text of its error."""
    folder = tmp_path_factory.mktemp("deepspeed")
    for tied, lab in labs.items():
        student = lab.build_student()
        student.model.save_pretrained(folder / f"tied-{tied}")
        student.tokenizer.fast.save_pretrained(folder / f"tied-{tied}")
    cases = {name: CASES[name] for name in collected(Path(__file__).name, "name")}
    jobs = {
        name: job(labs[case.tied], case, zero[case.stage], folder / f"tied-{case.tied}")
        for name, case in cases.items()
    }
    found: dict[str, Any] = train_ranks(jobs, folder)
    return found


def job(lab, case: Case, extra: dict[str, Any], student: Path) -> dict[str, Any]:
    terms = [
        TermSpec(t.teacher, t.method_name, t.method, t.weight, t.pair.teacher) for t in lab.terms()
    ]
    plain = lab.trainer(max_grad_norm=case.max_grad_norm, **TRAINING).engine.options
    options = replace(
        plain,
        micro_batch=4 // case.accumulation // case.num_ranks,
        accumulation=case.accumulation,
        dtype=case.dtype,
        extra=extra,
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
        "elements_in_memory": case.elements_in_memory,
    }


def batch_of(lab, indices: tuple[int, ...]) -> tuple[list, list, int]:
    documents = [lab.documents[i] for i in indices]
    num_bytes = sum(document.num_scored_bytes for document in documents)
    return documents, [lab.signals[i] for i in indices], num_bytes


@dataclass(frozen=True)
class Reference:
    """The plain engine after two steps; the scores are those before the second."""

    weights: dict[str, torch.Tensor]
    reports: list[StepReport]
    scores: list[DocumentScore]


@pytest.fixture(scope="module")
def reference(labs) -> Callable[[str], Reference]:
    """What a case must come to."""

    @cache
    def trained(tied: bool, normalize: str, max_grad_norm: float) -> Reference:
        options = TRAINING | {"max_grad_norm": max_grad_norm}
        trainer = labs[tied].trainer(WEIGHTS, normalize, micro_batch=4, **options)
        first, second = (batch_of(labs[tied], indices) for indices in BATCHES)
        reports = [trainer.step(*first, measure_shares=True)]
        scores = trainer.evaluate(second[0])
        reports.append(trainer.step(*second, measure_shares=True))
        return Reference(trainer.engine.state_dict(), reports, scores)

    def of_case(name: str) -> Reference:
        case = CASES[name]
        return trained(case.tied, case.normalize, case.max_grad_norm)

    return of_case


def result_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    found = results[name]
    if isinstance(found, str):
        pytest.fail(found, pytrace=False)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", cases_of("float32"))
class TestFloat32:
    def test_weights(self, results, reference, labs, name):
        weights, expected = result_of(results, name)["weights"], reference(name).weights
        before = labs[CASES[name].tied].build_student().model.state_dict()
        for parameter, value in expected.items():
            difference = (weights[parameter] - value).abs()
            assert difference.max() < 1e-5  # AdamW divides by tiny gradients here and there
            assert difference.mean() < 1e-7
            assert (value - before[parameter]).abs().max() > 1e-3
        assert weights.keys() == expected.keys()

    def test_reports(self, results, reference, name):
        found = result_of(results, name)["reports"]
        for ours, theirs in zip(found, reference(name).reports, strict=True):
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
            assert ours.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-6)
            assert ours.update.grad_norm == pytest.approx(theirs.update.grad_norm, rel=1e-3)
            assert ours.num_tokens == theirs.num_tokens
            if CASES[name].measure_shares:
                assert ours.shares == pytest.approx(theirs.shares, abs=1e-3)
        assert [r.update.learning_rate for r in found] == pytest.approx([0.5e-3, 1e-3])

    def test_evaluation_in_between(self, results, reference, name):
        """It sees the weights as they are after the first step."""
        found, expected = result_of(results, name)["scores"], reference(name).scores
        assert [s.nats for s in found] == pytest.approx([s.nats for s in expected], rel=1e-5)

    def test_saved_student_is_the_trained_one(self, results, labs, tmp_path, name):
        """What the worker writes loads again, also with a head that is the embedding."""
        weights = result_of(results, name)["weights"]
        student = labs[CASES[name].tied].build_student()
        student.model.save_pretrained(tmp_path, state_dict=dict(weights))  # it empties it
        loaded = LanguageModel.load(ModelSource(str(tmp_path)), student.tokenizer)
        assert loaded.model.config.tie_word_embeddings == CASES[name].tied
        for parameter, value in loaded.model.state_dict().items():
            assert torch.equal(value, weights[parameter])


@pytest.mark.slow
@pytest.mark.parametrize("name", cases_of("bfloat16"))
class TestBfloat16:
    def test_follows_float32(self, results, reference, name):
        """Also from the second step on: the optimizer keeps float32 master weights."""
        expected = reference(name).reports
        found = result_of(results, name)["reports"][:2]
        assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=3e-3)
        norms = [r.update.grad_norm for r in expected]
        assert [r.update.grad_norm for r in found] == pytest.approx(norms, rel=2e-2)

    def test_trains(self, results, name):
        found = result_of(results, name)
        losses = [report.loss for report in found["reports"]]
        assert losses[2] < losses[0]
        assert losses[3] < losses[1]
        assert {value.dtype for value in found["weights"].values()} == {torch.bfloat16}


@pytest.fixture
def lab(labs):
    return labs[False]


def test_settings_keep_the_users_and_add_ours(lab):
    extra = {"zero_optimization": {"stage": 2, "overlap_comm": False}, "wall_clock_breakdown": True}
    options = replace(lab.trainer().engine.options, extra=extra, micro_batch=3, accumulation=2)
    found = settings(replace(options, max_grad_norm=0.5))
    assert found["zero_optimization"] == extra["zero_optimization"]
    assert found["wall_clock_breakdown"] is True
    assert found["train_micro_batch_size_per_gpu"] == 3
    assert found["gradient_accumulation_steps"] == 2
    assert (found["gradient_clipping"], found["bf16"]) == (0.5, {"enabled": False})


@pytest.mark.parametrize(("dtype", "stage"), [("float32", 0), ("bfloat16", 1)])
@pytest.mark.parametrize("extra", [{}, {"zero_optimization": {"stage": 0}}])
def test_bfloat16_never_runs_without_zero(lab, dtype, stage, extra):
    options = replace(lab.trainer().engine.options, dtype=dtype, extra=extra)
    assert settings(options)["zero_optimization"].get("stage", 0) == stage
    assert extra in ({}, {"zero_optimization": {"stage": 0}})  # the run file's stay as they are


def test_only_matrices_decay(lab):
    module = lab.trainer().engine.module
    module.model.lm_head.weight.requires_grad_(False)
    matrices, vectors = parameter_groups(module, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    trained = [p for p in module.parameters() if p.requires_grad]
    assert len(matrices["params"]) + len(vectors["params"]) == len(trained)
