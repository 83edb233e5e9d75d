"""bld in the trainer: heads that are trained, checkpoints, splits of a batch."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from losses.methods.bld import Bld
from orchestrator.gates.verdict import Gates
from orchestrator.student.deepspeed import parameter_groups
from orchestrator.student.module import DistillModule, Term
from orchestrator.student.state import (
    load_weights_into,
    restore,
    save_exported_modules,
    save_state,
)
from orchestrator.student.trainer import StudentTrainer

PARALLEL = Bld(head="parallel", converter="on_path")
METHODS = [
    Bld(),
    Bld(temperature=2.0),
    PARALLEL,
    Bld(head="conditioned", converter="on_path", slots=6),
]
HEAD = "method_modules.0.head.linear.weight"


@dataclass(frozen=True)
class Lab:
    """A distillation whose only teacher has another tokenizer."""

    base: Any

    def terms(self) -> list[Term]:
        width = self.base.build_student().model.config.hidden_size
        terms = type(self.base).terms(self.base)
        return [replace(t, pair=replace(t.pair, student_width=width)) for t in terms]

    def trainer(self, micro_batch: int = 6, **options: Any) -> StudentTrainer:
        terms = self.terms

        class Widened(type(self.base)):
            def terms(self) -> list[Term]:
                return terms()

        base = self.base
        built = Widened(
            base.build_student, base.teachers, base.methods, base.documents, base.signals
        )
        return built.trainer((0.0, 1.0), "bytes", micro_batch, **options)

    def step(self, trainer: StudentTrainer, order=None):
        base = self.base
        order = order or range(len(base.documents))
        return trainer.step(
            [base.documents[i] for i in order],
            [base.signals[i] for i in order],
            base.num_scored_bytes,
        )


@pytest.fixture(scope="module")
def lab_of(distillation):
    labs = {}

    def build(method: Bld, teacher: str = "other") -> Lab:
        if (method, teacher) not in labs:
            labs[method, teacher] = Lab(distillation({teacher: method}))
        return labs[method, teacher]

    return build


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_student_gets_closer_alone(lab_of, method):
    """The weight of cross-entropy is zero."""
    lab = lab_of(method)
    trainer = lab.trainer(learning_rate=1e-2)
    losses = [lab.step(trainer).loss for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses) >= 0


@pytest.mark.parametrize("method", [METHODS[0], PARALLEL], ids=repr)
def test_any_split_and_order_give_the_same_gradient(lab_of, method):
    lab = lab_of(method)
    torch.manual_seed(0)
    whole = lab.trainer()
    expected = lab.step(whole)
    for micro_batch, order in [(1, None), (2, [5, 0, 3, 1, 4, 2])]:
        torch.manual_seed(0)
        trainer = lab.trainer(micro_batch)
        report = lab.step(trainer, order)
        assert report.losses == pytest.approx(expected.losses, rel=1e-5)
        assert trainer.engine.gradients.keys() == whole.engine.gradients.keys()
        for name, gradient in whole.engine.gradients.items():
            torch.testing.assert_close(trainer.engine.gradients[name], gradient, atol=1e-6, rtol=0)


def test_a_head_teaches_the_student_below_it(lab_of):
    lab = lab_of(PARALLEL)
    trainer = lab.trainer()
    lab.step(trainer)
    gradients = trainer.engine.gradients
    assert gradients[HEAD].abs().max() > 0
    below = [n for n in gradients if n.startswith("model.model.layers.0")]
    assert below
    assert all(gradients[n].abs().max() > 0 for n in below)
    assert gradients["model.lm_head.weight"].abs().max() == 0


def test_a_head_has_its_own_rate(lab_of):
    lab = lab_of(replace(PARALLEL, head_learning_rate=0.5))
    module = lab.trainer(learning_rate=1e-4).engine.module
    groups = parameter_groups(module, 0.1)
    assert [g.get("lr") for g in groups] == [None, None, 0.5]
    assert len(groups[2]["params"]) == 2


def test_a_head_is_in_the_checkpoint_and_not_in_the_model(lab_of, tmp_path):
    lab = lab_of(PARALLEL)
    trainer = lab.trainer()
    lab.step(trainer)
    save_state(trainer.engine, 1, tmp_path / "state", 0)
    weight = trainer.engine.module.method_modules[0]["head"].linear.weight
    assert torch.equal(load_file(tmp_path / "state" / "weights.safetensors")[HEAD], weight)
    assert not [name for name in trainer.engine.state_dict() if "method_modules" in name]
    again = lab.trainer()
    load_weights_into(again.engine.module, tmp_path / "state")
    restore(again.engine, tmp_path / "state")
    for one in (trainer, again):
        lab.step(one)
    found = again.engine.module.method_modules[0]["head"].linear.weight
    assert torch.equal(found, weight)


@pytest.mark.parametrize("asked", [False, True])
def test_a_head_is_exported_if_asked(lab_of, tmp_path, asked):
    engine = lab_of(replace(PARALLEL, export_head=asked)).trainer().engine
    save_exported_modules(engine, tmp_path, 0)
    files = {path.name: load_file(path) for path in tmp_path.iterdir()}
    if not asked:
        assert files == {}
        return
    weights = files["method_modules.safetensors"]
    assert sorted(weights) == ["other/bld/head.linear.bias", "other/bld/head.linear.weight"]
    linear = engine.module.method_modules[0]["head"].linear
    assert torch.equal(weights["other/bld/head.linear.weight"], linear.weight)


@pytest.mark.parametrize("converter", ["one_path", "on_path", "eot"])
def test_gates_pass(lab_of, converter):
    lab = lab_of(Bld(converter=converter), "same")
    verdicts = lab.trainer().check(lab.base.documents, lab.base.signals, Gates())
    gates = {v.gate for v in verdicts}
    assert {"identity", "chunked", "order"} <= gates
    assert [v.problem for v in verdicts if not v.passed] == []


def test_a_module_has_its_students_width(lab_of):
    module = lab_of(PARALLEL).trainer().engine.module
    assert isinstance(module, DistillModule)
    assert module.method_modules[0]["head"].linear.in_features == 32
