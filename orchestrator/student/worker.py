"""The thin Ray shell around one student rank, and what it is built from."""

import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from transformers import set_seed

from losses.alignment.projection import Projection
from losses.alignment.vocabulary import Vocabulary
from losses.base import Method, Pair
from losses.document import Document
from losses.mixture import Schedule
from losses.mixture.targets import Mean
from orchestrator.errors import WorkerLost
from orchestrator.gates.verdict import Gates, Verdict
from orchestrator.student.deepspeed import DeepSpeedEngine, prepare_environment, zero_optimization
from orchestrator.student.engine import EngineOptions
from orchestrator.student.ensemble import ENSEMBLE, EnsembleTerm
from orchestrator.student.layers import keep_layers, kept_layers
from orchestrator.student.mixing import Mixing
from orchestrator.student.module import DistillModule, Term
from orchestrator.student.objective import Objective
from orchestrator.student.state import (
    load_weights_into,
    restore,
    restore_random_state,
    save_exported_modules,
    sizes,
)
from orchestrator.student.trainer import StepReport, StudentTrainer
from teachers.backends.transformers import LanguageModel, load_weights
from teachers.evaluation import DocumentScore
from teachers.inside import encode_inside
from teachers.source import ModelSource
from teachers.teacher import DocumentSignals, HeadWeights
from teachers.tokenizer import Tokenizer


@dataclass(frozen=True)
class TermSpec:
    """One (teacher, method) before the student exists."""

    teacher: str
    method_name: str
    method: Method
    weight: float | Schedule
    vocabulary: Vocabulary
    """The teacher's."""
    projection: Projection | None = None
    """W, where the method reads it."""
    width: int | None = None
    """Width of the teacher's hidden states, where it is known."""


@dataclass(frozen=True)
class StudentSpec:
    """All that a rank needs to build its student."""

    source: ModelSource
    keep: tuple[int, ...] | None
    drop: tuple[int, ...] | None
    device: str
    threads: int
    num_ranks: int
    gradient_checkpointing: bool
    seed: int
    objective: Objective
    engine: EngineOptions
    terms: tuple[TermSpec, ...] = ()
    ensemble: Mean | None = None
    """How the terms' targets become one; None combines losses."""
    timeout_s: float = 600.0
    token_budget: int = 2048
    resume_from: Path | None = None
    """The state folder of the checkpoint to continue from; None starts from ``source``."""

    @property
    def names(self) -> tuple[str, ...]:
        """``ce`` and each ``teacher/method``, in the order of the objective's weights."""
        if self.ensemble is not None and self.terms:
            return ("ce", f"{ENSEMBLE}/{self.terms[0].method_name}")
        return ("ce", *(f"{term.teacher}/{term.method_name}" for term in self.terms))


class StudentWorker:
    """What Ray starts: one rank, methods called by name, nothing decided here."""

    def __init__(self, rank: int, run_folder: Path) -> None:
        self.rank = rank
        self.run_folder = run_folder

    def address(self) -> tuple[str, int]:
        """Where the ranks meet: this host and a free port."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind(("", 0))
            return host, int(free.getsockname()[1])

    def build(self, spec: StudentSpec, address: tuple[str, int]) -> None:
        """Load the model and join the process group."""
        device = "cuda" if spec.device != "cpu" and torch.cuda.is_available() else "cpu"
        prepare_environment(device, self.run_folder / "extensions" / str(self.rank))
        join_group(self.rank, spec.num_ranks, address)
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.trainer = build_trainer(spec, device)
        if spec.resume_from is not None:
            restore_random_state(spec.resume_from, self.rank)

    def set_head(self, teacher: str, head: HeadWeights) -> None:
        """Give a teacher's head to the terms that read its full distributions."""
        module = self.trainer.engine.module
        module.attach_head(teacher, head.head(module.student.device))

    def step(
        self,
        documents: Sequence[Document],
        references: dict[str, Any],
        num_scored_bytes: int,
        *,
        measure_shares: bool,
    ) -> tuple[StepReport, dict[str, float]]:
        """Wait for each teacher's signals, train; also gives the seconds waited for each."""
        waited, received = {}, {}
        for teacher, reference in references.items():
            start = time.perf_counter()
            received[teacher] = self._get(teacher, reference)
            waited[teacher] = time.perf_counter() - start
        signals = [sum((s[i] for s in received.values()), ()) for i in range(len(documents))]
        report = self.trainer.step(
            documents, signals, num_scored_bytes, measure_shares=measure_shares
        )
        return report, waited

    def check(
        self, documents: Sequence[Document], references: dict[str, Any], gates: Gates
    ) -> list[Verdict]:
        """See ``StudentTrainer.check``."""
        received = [self._get(teacher, reference) for teacher, reference in references.items()]
        signals = [sum((s[i] for s in received), ()) for i in range(len(documents))]
        return self.trainer.check(documents, signals, gates)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """See ``StudentTrainer.evaluate``."""
        return self.trainer.evaluate(documents)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer into the folder (rank 0; the others help to gather)."""
        weights = self.trainer.engine.state_dict()
        if self.rank == 0:
            student = self.trainer.engine.module.student
            student.model.save_pretrained(folder, state_dict=weights)
            student.tokenizer.fast.save_pretrained(folder)
        save_exported_modules(self.trainer.engine, folder, self.rank)

    def save_state(self, folder: Path, step: int) -> None:
        """Write what is needed to continue exactly; every rank takes part."""
        self.trainer.save_state(step, folder, self.rank)

    def sizes(self) -> tuple[int, int]:
        """About how many bytes the saved model has, and the state of a checkpoint beside it."""
        return sizes(self.trainer.engine.module)

    def _get(self, teacher: str, reference: Any) -> list[DocumentSignals]:
        try:
            signals: list[DocumentSignals] = ray.get(reference, timeout=self.spec.timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            raise WorkerLost(
                f"teacher {teacher}: no signals for {self.spec.timeout_s:g} s; "
                "raise train.timeout_s if it is only slow"
            ) from error
        except ray.exceptions.RayActorError as error:
            raise WorkerLost(f"teacher {teacher} died: {error}") from error
        return signals


def join_group(rank: int, num_ranks: int, address: tuple[str, int]) -> None:
    """Set what torch.distributed reads; without them DeepSpeed would look for MPI."""
    os.environ["RANK"] = str(rank)
    os.environ["LOCAL_RANK"] = "0"
    os.environ["WORLD_SIZE"] = str(num_ranks)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address[0], str(address[1])


def build_trainer(spec: StudentSpec, device: str) -> StudentTrainer:
    """The trainer of one rank; the process group's variables must be set."""
    set_seed(spec.seed)
    student = load_student(spec, device)
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
    if spec.resume_from is not None and spec.objective.has_state:
        trainer.mixing = Mixing.load(spec.resume_from)
    return trainer


def load_student(spec: StudentSpec, device: str) -> LanguageModel:
    """The student's model with the layers it keeps, and its tokenizer."""
    tokenizer = Tokenizer.load(spec.source, "student")
    model = load_weights(spec.source, device)
    depth = model.config.get_text_config().num_hidden_layers
    keep_layers(model, kept_layers(depth, spec.keep, spec.drop))
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return LanguageModel.wrap(model, tokenizer, packing=spec.source.packing)


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
