"""dskd, multilevel_ot and hidden in the trainer; projectors of models of different widths."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from losses.base import Method, Pair
from losses.methods.dskd import Dskd
from losses.methods.hidden import Hidden
from losses.methods.multilevel_ot import MultilevelOt
from orchestrator.student.module import Term
from orchestrator.student.state import load_weights_into, restore, save_state
from orchestrator.student.trainer import Objective, StudentTrainer
from orchestrator.student.worker import StudentSpec, TermSpec
from teachers.head_weights import HeadWeights
from teachers.source import ModelSource
from teachers.teacher import Teacher

CPU = torch.device("cpu")
METHODS = [
    Dskd(),
    Dskd(version=1),
    Dskd(version=1, published=True),
    MultilevelOt(),
    MultilevelOt(published=True),
    Hidden(),
]
PROJECTING = [Dskd(), Dskd(version=1), Hidden(projector="always")]
every = pytest.mark.parametrize("method", METHODS, ids=repr)


@dataclass(frozen=True)
class Lab:
    """A student of width 24, a teacher of the other family and width 32, one method."""

    base: Any
    method: Method
    head: HeadWeights
    signals: list[Any]

    def terms(self) -> list[Term]:
        student, teacher = self.base.build_student(), self.base.teachers["other"]
        pair = Pair(
            student.tokenizer.vocabulary,
            teacher.tokenizer.vocabulary,
            student_width=student.model.config.hidden_size,
            teacher_width=teacher.model.config.hidden_size,
        )
        name = type(self.method).__name__.lower()
        return [Term("other", name, self.method, 1.0, pair).with_head(self.head.head(CPU))]

    def trainer(self, *, micro_batch: int = 2, **options: Any) -> StudentTrainer:
        base = self.base

        class Terms(type(base)):
            terms = staticmethod(self.terms)

        built = Terms(base.build_student, base.teachers, base.methods, base.documents, self.signals)
        torch.manual_seed(0)  # projectors
        return built.trainer((0.0, 1.0), "bytes", micro_batch, **options)

    def step(self, trainer: StudentTrainer, order=None):
        order = order or range(len(self.base.documents))
        return trainer.step(
            [self.base.documents[i] for i in order],
            [self.signals[i] for i in order],
            self.base.num_scored_bytes,
        )


@pytest.fixture(scope="module")
def lab_of(distillation):
    base = distillation(student={"hidden_size": 24, "intermediate_size": 48})
    model = base.teachers["other"]
    head = Teacher(model, []).head_weights()

    def build(method: Method) -> Lab:
        return Lab(base, method, head, Teacher(model, [method]).signals(base.documents))

    return build


@every
def test_any_split_and_order_give_the_same_gradient(lab_of, method):
    lab = lab_of(method)
    whole = lab.trainer(micro_batch=6)
    expected = lab.step(whole)
    for micro_batch, order in [(1, None), (2, [5, 0, 3, 1, 4, 2])]:
        trainer = lab.trainer(micro_batch=micro_batch)
        report = lab.step(trainer, order)
        assert report.losses == pytest.approx(expected.losses, rel=1e-4)
        assert trainer.engine.gradients.keys() == whole.engine.gradients.keys()
        for name, gradient in whole.engine.gradients.items():
            torch.testing.assert_close(trainer.engine.gradients[name], gradient, atol=1e-5, rtol=0)


@every
def test_loss_falls(lab_of, method):
    """The weight of cross-entropy is zero; part of some losses is a constant."""
    if isinstance(method, Dskd):
        method = replace(method, projector_learning_rate=0.01)
    lab = lab_of(method)
    trainer = lab.trainer(micro_batch=6, learning_rate=3e-3)
    losses = [lab.step(trainer).loss for _ in range(12)]
    assert losses[-1] < 0.95 * losses[0]
    assert min(losses) >= 0


@pytest.mark.parametrize("method", PROJECTING, ids=repr)
def test_projectors_go_on_where_they_stood(lab_of, tmp_path, method):
    """Also the map that starts from the student's first head, which is not saved."""
    lab = lab_of(method)
    trainer = lab.trainer()
    lab.step(trainer)
    save_state(trainer.engine, 1, tmp_path / "state", 0)
    again = lab.trainer()
    load_weights_into(again.engine.module, tmp_path / "state")
    restore(again.engine, tmp_path / "state")
    reports = [lab.step(one).loss for one in (trainer, again)]
    assert reports[0] == reports[1]
    names = [name for name in trainer.engine.gradients if name.startswith("method_modules")]
    assert names
    for name in names:
        gradients = [one.engine.gradients[name] for one in (trainer, again)]
        assert torch.equal(*gradients)
        assert gradients[0].abs().sum() > 0


@pytest.mark.nightly
@pytest.mark.parametrize("stage", [1, 3])
def test_projectors_under_zero_with_two_ranks(lab_of, zero, train_ranks, tmp_path, stage):
    """The second step is the one that a process in plain torch makes from the same state."""
    labs = [lab_of(method) for method in PROJECTING]
    student = labs[0].base.build_student()
    student.model.save_pretrained(tmp_path / "student")
    student.tokenizer.fast.save_pretrained(tmp_path / "student")
    jobs = {str(i): job(lab, zero[stage], tmp_path / str(i)) for i, lab in enumerate(labs)}
    for folder in jobs:
        (tmp_path / folder).mkdir()
    found = train_ranks(jobs, tmp_path)
    for name, lab in zip(jobs, labs, strict=True):
        assert not isinstance(found[name], str), found[name]
        plain = lab.trainer(micro_batch=6, learning_rate=1e-3)
        before = tmp_path / name / "1"
        load_weights_into(plain.engine.module, before)
        restore(plain.engine, before)
        lab.step(plain)
        first, second = (
            load_file(tmp_path / name / step / "weights.safetensors") for step in ("1", "2")
        )
        trained = {n: p.detach() for n, p in plain.engine.module.named_parameters()}
        for key, value in second.items():
            torch.testing.assert_close(value, trained[key], atol=1e-4, rtol=0)
        moved = [key for key in second if (second[key] - first[key]).abs().max() > 1e-4]
        assert any(key.startswith("method_modules") for key in moved)


def job(lab: Lab, zero: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Two ranks, three steps, the state after the first and the second."""
    (term,) = lab.terms()
    options = replace(lab.trainer().engine.options, micro_batch=3, learning_rate=1e-3, extra=zero)
    width = term.pair.teacher_width
    spec = StudentSpec(
        source=ModelSource(str(folder.parent / "student"), dtype="float32"),
        keep=None,
        drop=None,
        device="cpu",
        threads=1,
        num_ranks=2,
        gradient_checkpointing=False,
        seed=0,
        objective=Objective((0.0, 1.0), "bytes"),
        engine=options,
        terms=(
            TermSpec("other", term.method_name, lab.method, 1.0, term.pair.teacher, width=width),
        ),
    )
    step = (lab.base.documents, lab.signals, lab.base.num_scored_bytes)
    return {
        "spec": spec,
        "heads": {"other": lab.head},
        "steps": [step] * 3,
        "measure_shares": False,
        "elements_in_memory": 2**25,
        "saves": {1: folder / "1", 2: folder / "2"},
    }
