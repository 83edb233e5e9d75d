"""cdm and mined in the trainer: what is done ahead of the step, and a student that gets closer."""

from functools import partial

import pytest
import torch

from losses.alignment.projection import ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.base import Pair
from losses.methods.cdm import Cdm
from losses.methods.mined import Mined
from orchestrator.gates.verdict import Gates
from orchestrator.student.module import Term
from teachers.inside import encode_inside
from teachers.teacher import Teacher

METHODS = [
    Cdm(),
    Mined(),
    Cdm(published=True, temperature=0.8),
    Mined(published="dskd", temperature=2.0),
]


@pytest.fixture(scope="module")
def lab(distillation):
    """The documents, a student and the teacher of the other family, and their W."""
    base = distillation()
    ours, model = base.build_student().tokenizer, base.teachers["other"]
    encode = [partial(encode_inside, tokenizer) for tokenizer in (model.tokenizer, ours)]
    words = (ours.vocabulary, model.tokenizer.vocabulary)
    projection = build_projection(*words, encode[0], ProjectionOptions(), encode[1])
    return base, model, Pair(*words, projection=projection)


@pytest.fixture
def trainer_of(lab):
    base, model, pair = lab

    def build(method, micro_batch=6, normalize="bytes", **options):
        name = type(method).__name__.lower()

        class Terms(type(base)):
            def terms(self):
                return [Term("other", name, method, 1.0, pair)]

        signals = Teacher(model, [method]).signals(base.documents)
        built = Terms(base.build_student, base.teachers, base.methods, base.documents, signals)
        return built.trainer((0.0, 1.0), normalize, micro_batch, **options), signals

    return build


def step(base, trainer, signals):
    return trainer.step(base.documents, signals, base.num_scored_bytes)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_student_gets_closer_alone(lab, trainer_of, method):
    """The weight of cross-entropy is zero."""
    trainer, signals = trainer_of(method, learning_rate=5e-3)
    losses = [step(lab[0], trainer, signals).loss for _ in range(7)]
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("normalize", ["bytes", "units"])
def test_any_split_gives_the_same_gradient(lab, trainer_of, method, normalize):
    whole, signals = trainer_of(method, normalize=normalize)
    expected = step(lab[0], whole, signals)
    parts, _ = trainer_of(method, micro_batch=2, normalize=normalize)
    found = step(lab[0], parts, signals)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    for name, gradient in whole.engine.gradients.items():
        torch.testing.assert_close(parts.engine.gradients[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_gates_pass(lab, trainer_of, method):
    trainer, signals = trainer_of(method)
    verdicts = trainer.check(lab[0].documents, signals, Gates(likelihood=False, min_coverage=None))
    assert {v.gate for v in verdicts} == {"identity", "chunked", "order"}
    assert [v.problem for v in verdicts if not v.passed] == []
