"""The schemes of weights on real ranks: DeepSpeed over gloo weighs as plain torch on one rank."""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from losses.mixture import Confidence, Dynamic, GradMag, Schedule, Scheme, Select
from losses.prediction import ELEMENTS_IN_MEMORY
from orchestrator.student.objective import Objective
from orchestrator.student.worker import StudentSpec, TermSpec
from teachers.source import ModelSource
from teachers.teacher import Teacher

pytestmark = pytest.mark.slow

BATCHES = [(0, 1, 4, 5), (2, 3, 5, 0), (1, 2, 3, 4)]
SAVED = 2
"""Steps done when the state is saved, of three."""
WEIGHTS = (0.5, 1.0, 2.0)
ROUTES = [("same",), ("other",), None, (), ("other", "same"), ("same",)]


@dataclass(frozen=True)
class Case:
    """How a job is split, and its scheme; ``start`` is the case whose state it continues."""

    scheme: Scheme = field(default_factory=Dynamic)
    stage: int = 0
    accumulation: int = 1
    routed: bool = False
    start: str | None = None
    num_ranks: int = 2

    @property
    def objective(self) -> Objective:
        weights = (*WEIGHTS[:2], Schedule(start=2.0, end=1.0, steps=2) if self.routed else 2.0)
        return Objective(weights, "bytes", self.scheme)


CASES = {
    "confidence": Case(Confidence(temperature=0.5), accumulation=2, routed=True),
    "select": Case(Select(), stage=3),
    "dynamic": Case(Dynamic(), stage=2, routed=True),
    "dynamic-zero3": Case(Dynamic(), stage=3, accumulation=2),
    "gradmag": Case(GradMag(), accumulation=2),
    "gradmag-zero2": Case(GradMag(), stage=2, accumulation=2),
    "gradmag-resumed": Case(GradMag(), start="gradmag", accumulation=2),
    "gradmag-resumed-alone": Case(GradMag(), start="gradmag", accumulation=4, num_ranks=1),
    "dynamic-resumed": Case(Dynamic(), stage=2, routed=True, start="dynamic"),
}
NIGHTLY = (
    "confidence",
    "dynamic-zero3",
    "gradmag-zero2",
    "gradmag-resumed-alone",
    "dynamic-resumed",
)
"""Half a minute more; what each document weighs on a rank is select's and dynamic's as well."""


def parameters(names: Iterable[str]) -> list[Any]:
    nightly = pytest.mark.nightly
    return [pytest.param(name, marks=nightly if name in NIGHTLY else ()) for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mixture-ranks")


@pytest.fixture(scope="module")
def lab(distillation):
    return distillation()


def batches(lab, case: Case) -> list[tuple]:
    """Documents, signals and bytes of each step."""
    documents = lab.documents
    if case.routed:
        documents = [replace(d, teachers=t) for d, t in zip(documents, ROUTES, strict=True)]
    rows = []
    for name, model in lab.teachers.items():
        tokenizer = copy(model.tokenizer)
        tokenizer.name = name
        teacher = Teacher(
            replace(model, tokenizer=tokenizer), [lab.methods[name]], asks=case.scheme.asks
        )
        rows.append(teacher.signals(documents))
    signals = [sum(parts, ()) for parts in zip(*rows, strict=True)]
    return [
        (
            [documents[i] for i in batch],
            [signals[i] for i in batch],
            sum(documents[i].num_scored_bytes for i in batch),
        )
        for batch in BATCHES
    ]


@pytest.fixture(scope="module")
def results(lab, zero, train_ranks, collected, folder) -> dict[str, Any]:
    """Every asked case's result, or the text of its error."""
    student = lab.build_student()
    student.model.save_pretrained(folder / "student")
    student.tokenizer.fast.save_pretrained(folder / "student")
    names = collected(Path(__file__).name, "name")
    jobs = {
        name: job(lab, name, zero[CASES[name].stage], folder) for name in CASES if name in names
    }
    found: dict[str, Any] = train_ranks(jobs, folder)
    return found


def job(lab, name: str, extra: dict[str, Any], folder: Path) -> dict[str, Any]:
    case = CASES[name]
    first = SAVED if case.start else 0
    terms = [
        TermSpec(t.teacher, t.method_name, t.method, t.weight, t.pair.teacher) for t in lab.terms()
    ]
    options = replace(
        lab.trainer(learning_rate=1e-3).engine.options,
        micro_batch=4 // case.num_ranks // case.accumulation,
        accumulation=case.accumulation,
        extra=extra,
    )
    spec = StudentSpec(
        source=ModelSource(str(folder / "student")),
        keep=None,
        drop=None,
        device="cpu",
        threads=1,
        num_ranks=case.num_ranks,
        gradient_checkpointing=False,
        seed=0,
        objective=case.objective,
        engine=options,
        terms=tuple(terms),
        resume_from=folder / f"{case.start}.state" if case.start else None,
    )
    return {
        "spec": spec,
        "heads": {n: Teacher(model, []).head_weights() for n, model in lab.teachers.items()},
        "steps": batches(lab, case)[first:],
        "first": first,
        "saves": {SAVED: folder / f"{name}.state"},
        "measure_shares": True,
        "elements_in_memory": ELEMENTS_IN_MEMORY,
    }


@pytest.mark.parametrize("name", parameters(CASES))
def test_weighs_as_one_plain_rank(lab, results, name):
    case, found = CASES[name], results[name]
    assert not isinstance(found, str), found
    trainer = lab.trainer(micro_batch=4, learning_rate=1e-3)
    trainer.objective = case.objective
    expected = [trainer.step(*batch, measure_shares=True) for batch in batches(lab, case)]
    expected = expected[SAVED if case.start else 0 :]
    for report, whole in zip(found["reports"], expected, strict=True):
        assert report.weights == pytest.approx(whole.weights, rel=1e-4)
        assert report.losses == pytest.approx(whole.losses, rel=1e-4)
        assert report.shares == pytest.approx(whole.shares, abs=1e-4)
        assert report.update.grad_norm == pytest.approx(whole.update.grad_norm, rel=1e-4)
    for key, weight in trainer.engine.state_dict().items():
        torch.testing.assert_close(found["weights"][key], weight, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", parameters(["gradmag-resumed", "dynamic-resumed"]))
def test_resumed_goes_on_bit_for_bit(results, name):
    whole, resumed = results[str(CASES[name].start)], results[name]
    assert resumed["reports"][0].weights == whole["reports"][SAVED].weights
    for key, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][key], weight), key
