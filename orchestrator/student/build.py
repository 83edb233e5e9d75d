"""From its spec to a student that can be trained: model, losses, engine, and where it stood."""

import sys
from dataclasses import replace

from transformers import set_seed

from losses.base import Pair
from orchestrator.student.adapters import add_adapters
from orchestrator.student.deepspeed import DeepSpeedEngine, zero_optimization
from orchestrator.student.ensemble import EnsembleTerm
from orchestrator.student.layers import keep_layers, kept_layers
from orchestrator.student.mixing import Mixing
from orchestrator.student.module import DistillModule, Term
from orchestrator.student.shared_teacher import OriginalRows, SharedTeacher
from orchestrator.student.spec import StudentSpec, TermSpec
from orchestrator.student.state import load_weights_into, restore
from orchestrator.student.trainer import StudentTrainer
from orchestrator.student.transfer import transfer
from teachers.backends.transformers import LanguageModel, load_weights
from teachers.inside import encode_inside
from teachers.tokenizer import Tokenizer


def build_trainer(spec: StudentSpec, device: str) -> StudentTrainer:
    """The trainer of one rank; the process group's variables must be set."""
    set_seed(spec.seed)
    student, rows = _load(spec, device)
    if zero_optimization(spec.engine).get("stage") == 3:
        # The head gathers its weight at each call, so all ranks must call it equally often:
        # once a document, however long, and not again in the backward pass.
        student = replace(student, elements_in_memory=sys.maxsize)
    module = DistillModule(student, _terms(spec, student))
    if spec.resume_from is not None:
        load_weights_into(module, spec.resume_from)
    engine = DeepSpeedEngine(module, spec.engine)
    if spec.resume_from is not None:
        restore(engine, spec.resume_from)
    student.model.train()
    trainer = StudentTrainer(engine, spec.objective, spec.engine.micro_batch, spec.token_budget)
    if spec.shared is not None and rows is not None:
        trainer.shared = SharedTeacher(spec.shared, student.model, rows)
    if spec.resume_from is not None and spec.objective.has_state:
        trainer.mixing = Mixing.load(spec.resume_from)
    return trainer


def load_student(spec: StudentSpec, device: str) -> LanguageModel:
    """The student's model with the layers it keeps, and its tokenizer."""
    return _load(spec, device)[0]


def _load(spec: StudentSpec, device: str) -> tuple[LanguageModel, OriginalRows | None]:
    """The student; and the rows that a teacher inside it reads and writes with, if there is one."""
    tokenizer = Tokenizer.load(spec.source, "student")
    model = load_weights(spec.source, device)
    depth = model.config.get_text_config().num_hidden_layers
    keep_layers(model, kept_layers(depth, spec.keep, spec.drop))
    rows = None
    if spec.shared is not None:
        copied = spec.new_tokenizer is not None
        rows = OriginalRows.of(model, len(tokenizer.vocabulary), copied=copied)
    if spec.new_tokenizer is not None:
        own, tokenizer = tokenizer, spec.new_tokenizer.load(spec.source, tokenizer)
        transfer(model, own, tokenizer, spec.new_tokenizer.options, spec.seed)
    if spec.lora is not None:
        add_adapters(model, spec.lora, train_embeddings=spec.new_tokenizer is not None)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return LanguageModel.wrap(model, tokenizer, packing=spec.source.packing), rows


def _terms(spec: StudentSpec, student: LanguageModel) -> list[Term]:
    terms = [_term(term, student) for term in spec.terms]
    if terms and spec.ensemble is not None:
        return [EnsembleTerm.of(terms, spec.ensemble)]
    for term in terms:
        term.method.check(term.pair)
    return terms


def _term(spec: TermSpec, student: LanguageModel) -> Term:
    pair = Pair(
        student.tokenizer.vocabulary,
        spec.vocabulary,
        projection=spec.projection,
        encode_student=lambda texts: list(encode_inside(student.tokenizer, texts)),
        student_width=student.model.config.get_text_config().hidden_size,
        teacher_width=spec.width,
    )
    return Term(spec.teacher, spec.method_name, spec.method, spec.weight, pair)
