"""A student with another tokenizer learns from the model that it was: one teacher, one forward."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from losses.alignment.projection import ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.base import Method, Pair
from losses.methods.alm import Alm
from losses.methods.bld import Bld
from losses.methods.hidden import Hidden
from losses.methods.p_kl import PKl
from losses.mixture import GradMag
from orchestrator.cluster import Machine
from orchestrator.config import parse_run
from orchestrator.references import model_references, teacher_place
from orchestrator.sources import teacher_source
from orchestrator.specs import student_spec, teacher_specs
from orchestrator.student.module import DistillModule, Term
from orchestrator.student.objective import Objective
from orchestrator.student.stages import embedding_parameters
from orchestrator.student.trainer import StudentTrainer
from teachers.backends.transformers import LanguageModel
from teachers.inside import encode_inside
from teachers.teacher import Teacher

METHODS: tuple[Method, ...] = (
    Alm(debias=True),
    PKl(),
    Bld(converter="on_path"),
    Hidden(projector="none"),
)


@dataclass(frozen=True)
class Transfer:
    """A model, the student with its layers and another tokenizer, and what the model says."""

    teacher: LanguageModel
    base: Any
    build: Any
    projection: Any

    def trainer(self) -> StudentTrainer:
        base, build, projection = self.base, self.build, self.projection
        teacher = self.teacher.tokenizer.vocabulary
        student = build()
        width = student.model.config.hidden_size
        pair = Pair(
            student.tokenizer.vocabulary,
            teacher,
            projection=projection,
            student_width=width,
            teacher_width=width,
        )
        terms = [Term("self", type(m).__name__.lower(), m, 1.0, pair) for m in METHODS]
        head = Teacher(self.teacher, []).head_weights().head(torch.device("cpu"))
        module = DistillModule(student, [term.with_head(head) for term in terms])
        engine = type(base.trainer().engine)(
            module, base.trainer(learning_rate=3e-3).engine.options
        )
        weights = (0.0, *(1.0 for _ in METHODS))
        return StudentTrainer(engine, Objective(weights, "bytes", GradMag()), 2, 512)


@pytest.fixture(scope="module")
def transfer(distillation, language_model) -> Transfer:
    base, teacher = distillation(), language_model("llama", "bytelevel", seed=3)

    def build() -> LanguageModel:
        student = language_model("llama", "sentencepiece", seed=4)
        rows = set(embedding_parameters(student.model))
        theirs = dict(teacher.model.named_parameters())
        for name, parameter in student.model.named_parameters():
            if parameter not in rows:
                parameter.data.copy_(theirs[name])
        return student

    sides = (build().tokenizer, teacher.tokenizer)
    encode = [partial(encode_inside, tokenizer) for tokenizer in sides[::-1]]
    projection = build_projection(
        sides[0].vocabulary, sides[1].vocabulary, encode[0], ProjectionOptions(), encode[1]
    )
    return Transfer(teacher, base, build, projection)


def test_one_forward_serves_all_methods(transfer):
    calls = []
    decoder = transfer.teacher.model.base_model
    handle = decoder.register_forward_hook(lambda *_: calls.append(1))
    documents = transfer.base.documents
    signals = Teacher(transfer.teacher, METHODS, token_budget=10**6).signals(documents)
    handle.remove()
    assert len(calls) == 1
    assert {len(row) for row in signals} == {len(METHODS)}


def test_the_student_gets_closer_with_gradmag(transfer):
    documents = transfer.base.documents
    signals = Teacher(transfer.teacher, METHODS).signals(documents)
    trainer = transfer.trainer()
    run = partial(trainer.step, documents, signals, transfer.base.num_scored_bytes)
    first = run(measure_shares=True)
    assert first.shares[1:] == pytest.approx([1 / len(METHODS)] * len(METHODS), rel=1e-3)
    reports = [run() for _ in range(12)]
    for index, method in enumerate(METHODS, start=1):
        assert reports[-1].losses[index] < first.losses[index], method


def run_file(init: str) -> dict[str, Any]:
    return {
        "student": {"init": init, "keep_layers": [0]},
        "teachers": [{"name": "own", "kind": "self", "methods": [{"name": "kl"}]}],
        "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
        "output_dir": "x",
    }


def test_it_is_the_whole_init_of_the_student(language_model, tmp_path):
    model = language_model("llama")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.fast.save_pretrained(tmp_path)
    config = parse_run(run_file(str(tmp_path)))
    machine = Machine(num_cpus=1, num_gpus=0.0)
    (spec,) = teacher_specs(config, machine)
    assert spec.source == teacher_source(config.teachers[0], config.student)
    assert spec.source.path == str(tmp_path)
    assert spec.build().model.model.config.num_hidden_layers == 2
    student = student_spec(config, machine, {"own": model.tokenizer.vocabulary})
    assert student.keep == (0,)
    assert [reference.place for reference in model_references(config)] == ["student.init"]
    assert teacher_place(config, 0) == "student.init"
    assert teacher_place(config, 0, "start_token") == "teachers[0] (own).start_token"
