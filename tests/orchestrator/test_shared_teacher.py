"""The teacher inside the student's rank says what the teacher in a process of its own says."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from losses.methods.alm import Alm
from losses.methods.bld import Bld
from losses.methods.hidden import Hidden
from losses.methods.kl import Kl
from orchestrator.shared import IN_THE_RANK, TeacherInside
from orchestrator.student.adapters import LoraOptions, add_adapters
from orchestrator.student.embeddings.options import EmbeddingOptions
from orchestrator.student.shared_teacher import OriginalRows, SharedTeacher
from orchestrator.student.transfer import transfer
from orchestrator.student.worker import StudentWorker
from teachers.actor import TeacherSpec
from teachers.backends.transformers import LanguageModel
from teachers.source import ModelSource

METHODS = (Alm(), Bld(converter="branches"), Hidden(), Kl())
LORA = LoraOptions(4, 8, 0.3, ("q_proj", "down_proj"))
IDS = torch.arange(9)[None]


def parts(value: Any) -> list[Any]:
    """The numbers in signals, scores and heads, in order."""
    if is_dataclass(value):
        return parts([getattr(value, field.name) for field in fields(value)])
    if isinstance(value, list | tuple):
        return [part for entry in value for part in parts(entry)]
    return [value]


def same(ours: Any, theirs: Any) -> None:
    pairs = list(zip(parts(ours), parts(theirs), strict=True))
    assert pairs
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)  # NaN, as of the start token, equals itself


@pytest.fixture(params=["transferred", "transferred tied", "own tokenizer"])
def both(request, language_model, tokenizers, tmp_path: Path):
    """A student with moved adapters, the teacher inside it, and the ordinary teacher."""
    tied = "tied" in request.param
    model = language_model("llama", "bytelevel", seed=3, tie_word_embeddings=tied).model
    model.save_pretrained(tmp_path)
    source = tokenizers["bytelevel"]
    source.fast.save_pretrained(tmp_path)
    new = request.param != "own tokenizer"
    tokenizer = tokenizers["sentencepiece"] if new else source
    rows = OriginalRows.of(model, len(source.vocabulary), copied=new)
    if new:
        transfer(model, source, tokenizer, EmbeddingOptions())
    add_adapters(model, LORA, train_embeddings=new)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)  # as training does
    student = LanguageModel.wrap(model.train(), tokenizer)
    spec = TeacherSpec("own", ModelSource(str(tmp_path)), METHODS, asks="ce")
    return student, SharedTeacher(spec, model, rows), spec.build()


def test_signals_scores_and_head_are_those_of_the_actor(both, documents):
    _, inside, actor = both
    same(inside.signals(documents), actor.signals(documents))
    same(inside.evaluate(documents), actor.evaluate(documents))
    same(inside.head_weights(), actor.head_weights())


def test_the_student_is_left_as_it_was(both, documents):
    student, inside, _ = both
    model = student.model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    model.eval()
    before = model(IDS).logits
    model.train()
    inside.signals(documents)
    assert model.training
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    model.eval()
    assert torch.equal(model(IDS).logits, before)
    model(IDS).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_one_copy_of_the_weights(both):
    student, inside, _ = both
    layers = student.model.base_model.layers
    assert inside._teacher.model.model.base_model.layers is layers


def test_a_rank_makes_the_signals_itself(both, documents):
    _, inside, actor = both
    worker = StudentWorker(0, Path())
    worker.trainer = SimpleNamespace(shared=inside)
    same(worker._signals("own", IN_THE_RANK, documents), actor.signals(documents))
    same(worker.evaluate_shared(documents), actor.evaluate(documents))
    worker.trainer = SimpleNamespace(shared=None)
    with pytest.raises(ValueError, match="no teacher runs inside"):
        worker.shared_head()


def test_the_driver_asks_the_ranks():
    def rank(name: str) -> Any:
        return SimpleNamespace(
            evaluate_shared=SimpleNamespace(remote=lambda documents: asked.append(name) or name),
            shared_head=SimpleNamespace(remote=lambda: f"head of {name}"),
        )

    asked: list[str] = []
    teacher = TeacherInside.of({"student/0": rank("zero"), "student/1": rank("one")})
    assert teacher.signals.remote(["a document"]) is IN_THE_RANK
    assert teacher.evaluate.remote([]) == "zero"
    assert asked == ["zero", "one"]  # all ranks read together
    assert teacher.head_weights.remote() == "head of zero"
