"""p_kl, h_kl, gold and uld of one teacher in the trainer, and a W that is trained."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from losses.alignment.projection import Projection, ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.base import Method, Pair
from losses.chunk_distributions.columns import columns_of
from losses.document import Document
from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld
from orchestrator.student.deepspeed import parameter_groups
from orchestrator.student.module import Example, Term
from orchestrator.student.state import load_weights_into, restore, save_state
from orchestrator.student.trainer import Objective, StudentTrainer
from orchestrator.student.worker import StudentSpec, TermSpec
from teachers.inside import encode_inside
from teachers.source import ModelSource
from teachers.teacher import Teacher

ROOT = Path(__file__).parents[2]
EXACT = "float32"
W = "method_modules.0.w.log_weights"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Lab:
    """A small distillation in which one teacher feeds several methods."""

    base: Any
    methods: tuple[Method, ...]
    projection: Projection
    signals: list[Any]

    @property
    def documents(self) -> list[Document]:
        return self.base.documents

    def terms(self) -> list[Term]:
        vocabulary = self.base.build_student().tokenizer.vocabulary
        teacher = self.base.teachers["other"].tokenizer.vocabulary
        pair = Pair(vocabulary, teacher, projection=self.projection)
        return [Term("other", type(m).__name__.lower(), m, 1.0, pair) for m in self.methods]

    def trainer(self, *weights: float, micro_batch: int = 2, **options: Any) -> StudentTrainer:
        base = self.base

        class Terms(type(base)):
            terms = staticmethod(self.terms)

        built = Terms(base.build_student, base.teachers, base.methods, base.documents, self.signals)
        return built.trainer((0.0, *weights), "bytes", micro_batch, **options)

    def step(self, trainer: StudentTrainer, order=None):
        order = order or range(len(self.documents))
        return trainer.step(
            [self.documents[i] for i in order],
            [self.signals[i] for i in order],
            self.base.num_scored_bytes,
        )


@pytest.fixture(scope="module")
def lab_of(distillation):
    base = distillation()
    ours = base.build_student().tokenizer
    model = base.teachers["other"]
    encode = [partial(encode_inside, tokenizer) for tokenizer in (model.tokenizer, ours)]
    projection = build_projection(
        ours.vocabulary, model.tokenizer.vocabulary, encode[0], ProjectionOptions(), encode[1]
    )

    def build(*methods: Method) -> Lab:
        signals = Teacher(model, methods).signals(base.documents)
        return Lab(base, methods, projection, signals)

    return build


@pytest.fixture(scope="module")
def learned(lab_of) -> Lab:
    """h_kl reads the W that p_kl trains."""
    return lab_of(PKl(learnable_w=True, precision=EXACT), HKl(precision=EXACT))


def test_any_split_and_order_give_the_same_gradient(lab_of):
    lab = lab_of(PKl(learnable_w=True), HKl(), Gold(), Uld())
    weights = (1.0, 0.5, 2.0, 0.3)
    whole = lab.trainer(*weights, micro_batch=6)
    expected = lab.step(whole)
    for micro_batch, order in [(1, None), (2, [5, 0, 3, 1, 4, 2])]:
        trainer = lab.trainer(*weights, micro_batch=micro_batch)
        report = lab.step(trainer, order)
        assert report.losses == pytest.approx(expected.losses, rel=1e-5)
        assert trainer.engine.gradients.keys() == whole.engine.gradients.keys()
        for name, gradient in whole.engine.gradients.items():
            torch.testing.assert_close(trainer.engine.gradients[name], gradient, atol=1e-6, rtol=0)


METHODS = [PKl(), PKl(learnable_w=True), HKl(), Gold(), Uld()]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_student_gets_closer_alone(lab_of, method):
    """The weight of cross-entropy is zero."""
    lab = lab_of(method)
    trainer = lab.trainer(1.0, micro_batch=6, learning_rate=3e-3)
    losses = [lab.step(trainer).loss for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses) >= 0


def w_of(trainer: StudentTrainer) -> torch.Tensor:
    return dict(trainer.engine.module.named_parameters())[W].detach().clone()


class TestLearnedW:
    def test_it_has_its_own_rate_and_no_decay(self, learned):
        module = learned.trainer(1.0, 1.0, learning_rate=1e-4).engine.module
        groups = parameter_groups(module, 0.1)
        assert [g.get("lr") for g in groups] == [None, None, 1e-2]
        assert [g["weight_decay"] for g in groups] == [0.1, 0.0, 0.0]
        names = {id(p): name for name, p in module.named_parameters()}
        assert [names[id(p)] for p in groups[2]["params"]] == [W]
        assert sum(len(g["params"]) for g in groups) == len(names)

    def test_the_rate_is_used(self, learned):
        """AdamW's first step moves each weight by the rate, whatever the gradient."""
        trainer = learned.trainer(1.0, 1.0, learning_rate=1e-4)
        before = w_of(trainer)
        learned.step(trainer)
        assert (w_of(trainer) - before).abs().max().item() == pytest.approx(1e-2, rel=1e-2)

    def test_it_moves_and_its_rows_stay_distributions(self, learned):
        trainer = learned.trainer(1.0, 1.0)
        columns = columns_of(learned.projection, CPU)
        module = trainer.engine.module.method_modules[0]["w"]
        before = module(columns).detach()
        for _ in range(3):
            learned.step(trainer)
        after = module(columns).detach()
        assert (after - before).abs().max() > 1e-3
        sums = torch.zeros(columns.num_student).index_add(0, columns.students.long(), after)
        filled = torch.zeros(columns.num_student, dtype=torch.bool)
        filled[columns.students.long()] = True
        torch.testing.assert_close(sums[filled], torch.ones(int(filled.sum())))

    def test_h_kl_reads_it_without_a_gradient(self, learned):
        trainer = learned.trainer(0.0, 1.0)
        learned.step(trainer)
        assert trainer.engine.gradients[W].abs().max() == 0

    def test_h_kl_reads_that_of_its_own_teacher(self, learned):
        """Each of the two methods reads W once a document."""
        module = learned.trainer(1.0, 1.0).engine.module
        assert count_reads(learned, module) == 2 * len(learned.documents)
        first, second = learned.terms()
        apart = type(module)(module.student, [first, replace(second, teacher="elsewhere")])
        assert count_reads(learned, apart) == len(learned.documents)

    def test_it_is_in_the_checkpoint(self, learned, tmp_path):
        trainer = learned.trainer(1.0, 1.0)
        learned.step(trainer)
        save_state(trainer.engine, 1, tmp_path / "state", 0)
        assert torch.equal(load_file(tmp_path / "state" / "weights.safetensors")[W], w_of(trainer))
        again = learned.trainer(1.0, 1.0)
        load_weights_into(again.engine.module, tmp_path / "state")
        restore(again.engine, tmp_path / "state")
        for one in (trainer, again):
            learned.step(one)
        assert torch.equal(w_of(again), w_of(trainer))


def count_reads(lab: Lab, module) -> int:
    reads: list[int] = []
    module.method_modules[0]["w"].register_forward_hook(lambda *_: reads.append(1))
    tokens = module.student.encode(lab.documents)
    rows = zip(lab.documents, tokens, lab.signals, strict=True)
    with torch.no_grad():
        module([Example(*row) for row in rows])
    return len(reads)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_learned_w_under_zero_with_two_ranks(learned, zero, train_ranks, tmp_path, stage):
    """After one step W is what one process in plain torch makes it."""
    plain = learned.trainer(1.0, 1.0, micro_batch=6)
    student = learned.base.build_student()
    student.model.save_pretrained(tmp_path / "student")
    student.tokenizer.fast.save_pretrained(tmp_path / "student")
    options = replace(plain.engine.options, micro_batch=3, extra=zero[stage])
    terms = [
        TermSpec(t.teacher, t.method_name, t.method, t.weight, t.pair.teacher, t.pair.projection)
        for t in learned.terms()
    ]
    spec = StudentSpec(
        source=ModelSource(str(tmp_path / "student"), dtype="float32"),
        keep=None,
        drop=None,
        device="cpu",
        threads=1,
        num_ranks=2,
        gradient_checkpointing=False,
        seed=0,
        objective=Objective((0.0, 1.0, 1.0), "bytes"),
        engine=options,
        terms=tuple(terms),
    )
    step = (learned.documents, learned.signals, learned.base.num_scored_bytes)
    job = {
        "spec": spec,
        "heads": {},
        "steps": [step, step],
        "measure_shares": False,
        "elements_in_memory": 2**25,
        "saves": {1: tmp_path / "state"},
    }
    found = train_ranks({"job": job}, tmp_path)["job"]
    assert not isinstance(found, str), found
    learned.step(plain)
    saved = load_file(tmp_path / "state" / "weights.safetensors")[W]
    torch.testing.assert_close(saved, w_of(plain), atol=1e-4, rtol=0)
    start = learned.trainer(1.0, 1.0)
    assert (saved - w_of(start)).abs().max() > 5e-3
