"""sedi in the trainer: re-encoding ahead of the step, the adapter, and a loss that falls."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from losses.base import Pair
from losses.methods.sedi import Sedi
from orchestrator.assets import resolve
from orchestrator.data import load_documents
from orchestrator.metrics import step_metrics
from orchestrator.student.deepspeed import parameter_groups
from orchestrator.student.module import Term
from orchestrator.student.trainer import StudentTrainer
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import bits_per_byte, score
from teachers.inside import encode_inside
from teachers.source import ModelSource
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer

ADAPTER = "method_modules.0.adapter.scale"


@dataclass(frozen=True)
class Lab:
    """A student and a teacher of the other tokenizer family."""

    base: Any
    method: Sedi

    def terms(self) -> list[Term]:
        student = self.base.build_student().tokenizer
        encode = partial(encode_inside, student)
        pair = Pair(
            student.vocabulary,
            self.base.teachers["other"].tokenizer.vocabulary,
            encode_student=lambda texts: list(encode(texts)),
        )
        return [Term("other", "sedi", self.method, 1.0, pair)]

    def trainer(self, micro_batch: int = 6, normalize: str = "bytes", **options: Any):
        base = self.base

        class Terms(type(base)):
            terms = staticmethod(self.terms)

        built = Terms(base.build_student, base.teachers, base.methods, base.documents, base.signals)
        return built.trainer((0.0, 1.0), normalize, micro_batch, **options)

    def step(self, trainer: StudentTrainer, order=None):
        order = order or range(len(self.base.documents))
        return trainer.step(
            [self.base.documents[i] for i in order],
            [self.base.signals[i] for i in order],
            self.base.num_scored_bytes,
        )


@pytest.fixture(scope="module")
def lab_of(distillation):
    return lambda method: Lab(distillation({"other": method}), method)


@pytest.mark.parametrize("method", [Sedi(), Sedi(published=True)], ids=repr)
def test_student_gets_closer_alone(lab_of, method):
    """The weight of cross-entropy is zero."""
    lab = lab_of(method)
    trainer = lab.trainer(learning_rate=3e-3)
    losses = [lab.step(trainer).loss for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses) >= 0
    assert max(losses) < 2 * losses[0]


@pytest.mark.parametrize("normalize", ["bytes", "units"])
def test_any_split_and_order_give_the_same_gradient(lab_of, normalize):
    lab = lab_of(Sedi(k=20))
    whole = lab.trainer(normalize=normalize)
    expected = lab.step(whole)
    for micro_batch, order in [(1, None), (2, [5, 0, 3, 1, 4, 2])]:
        trainer = lab.trainer(micro_batch, normalize)
        report = lab.step(trainer, order)
        assert report.losses == pytest.approx(expected.losses, rel=1e-5)
        assert report.metrics == pytest.approx(expected.metrics, rel=1e-5)
        assert trainer.engine.gradients.keys() == whole.engine.gradients.keys()
        for name, gradient in whole.engine.gradients.items():
            torch.testing.assert_close(trainer.engine.gradients[name], gradient, atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalize", ["bytes", "units"])
def test_its_parts_are_among_the_metrics(lab_of, normalize):
    """They are normalised as the loss, so they add up to it, and are those of one step."""
    lab = lab_of(Sedi(k=20))
    trainer = lab.trainer(normalize=normalize, micro_batch=2)
    for _ in range(2):
        report = lab.step(trainer)
        values = step_metrics(report, ("ce", "other/sedi"), {}, step_time=1.0)
        parts = [values[f"teacher/other/sedi/{name}"] for name in ("kl", "entropy")]
        assert sum(parts) == pytest.approx(values["teacher/other/sedi/kd_loss"], rel=1e-5)
        assert values["teacher/other/sedi/left_out"] >= 0


def test_the_adapter_is_trained_at_its_own_rate(lab_of):
    lab = lab_of(Sedi(adapter_learning_rate=0.05))
    trainer = lab.trainer(learning_rate=1e-3)
    module = trainer.engine.module
    assert [group.get("lr") for group in parameter_groups(module, 0.0)] == [None, None, 0.05]
    lab.step(trainer)
    scale = dict(module.named_parameters())[ADAPTER].detach()
    moved = (scale - 1).abs()
    assert moved.max().item() == pytest.approx(0.05, rel=1e-2)


def test_nothing_is_encoded_twice(lab_of):
    lab = lab_of(Sedi(k=20))
    trainer = lab.trainer()
    lab.step(trainer)
    reencoder = trainer.engine.module.terms[0].pair.reencoder
    encoded = reencoder.num_encoded
    assert encoded > 0
    lab.step(trainer)
    assert reencoder.num_encoded == encoded


@pytest.mark.slow
def test_bits_per_byte_of_unseen_documents_fall_alone(request):
    """The trained toy of another tokenizer teaches the toy student, all the way."""
    base_type = type(request.getfixturevalue("distillation")())
    student, teacher = (toy(name) for name in ("student", "sentencepiece"))
    found = load_documents([str(resolve("asset:toy/train.jsonl"))])
    readable = [d for d in found if all(m.tokenizer.is_faithful(d) for m in (student, teacher))]
    documents, method = readable[:24], Sedi()
    signals = Teacher(teacher, [method]).signals(documents)
    base = base_type(lambda: student, {"other": teacher}, {"other": method}, documents, signals)
    trainer, unseen = Lab(base, method).trainer(learning_rate=3e-3), readable[100:120]
    found = [bits_per_byte(score(student, unseen, 4096))]
    for _ in range(3):
        for step in range(7):
            chosen = [(8 * step + place) % len(documents) for place in range(8)]
            part = [documents[i] for i in chosen]
            total = sum(document.num_scored_bytes for document in part)
            trainer.step(part, [signals[i] for i in chosen], total)
        found.append(bits_per_byte(score(student, unseen, 4096)))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.85 * found[0]


def toy(name):
    source = ModelSource(str(resolve(f"asset:toy/{name}")))
    return LanguageModel.load(source, Tokenizer.load(source, name))
