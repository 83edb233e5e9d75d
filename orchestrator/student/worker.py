"""The thin Ray shell around one student rank."""

import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from losses.document import Document
from orchestrator.errors import WorkerLost
from orchestrator.gates.verdict import Gates, Verdict
from orchestrator.student.adapters import merged
from orchestrator.student.build import build_trainer, load_student
from orchestrator.student.deepspeed import prepare_environment
from orchestrator.student.ngram_model import write_modelling_file
from orchestrator.student.shared_teacher import SharedTeacher
from orchestrator.student.spec import StudentSpec, TermSpec
from orchestrator.student.state import restore_random_state, save_exported_modules, sizes
from orchestrator.student.tokenizer_folder import save_tokenizer
from orchestrator.student.trainer import StepReport
from orchestrator.student.versions import Spoken, save_version
from teachers.evaluation import DocumentScore
from teachers.snapshot import without_version
from teachers.teacher import DocumentSignals, HeadWeights

__all__ = [
    "StudentSpec",
    "StudentWorker",
    "TermSpec",
    "build_trainer",
    "join_group",
    "load_student",
]

TEACHER = "teacher"
"""Folder of a checkpoint's state with the version of the teacher that follows the student."""


class StudentWorker:
    """What Ray starts: one rank, methods called by name, nothing decided here."""

    def __init__(self, rank: int, run_folder: Path) -> None:
        self.rank = rank
        self.run_folder = run_folder
        self.spoken: Spoken | None = None
        """The version of the teacher that follows the student, if one does."""

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
            received[teacher] = self._signals(teacher, reference, documents)
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
        received = [self._signals(name, ref, documents) for name, ref in references.items()]
        signals = [sum((s[i] for s in received), ()) for i in range(len(documents))]
        return self.trainer.check(documents, signals, gates)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """See ``StudentTrainer.evaluate``."""
        return self.trainer.evaluate(documents)

    def evaluate_shared(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """The score of the teacher inside."""
        return self._shared.evaluate(documents)

    def shared_head(self) -> HeadWeights:
        """The head of the teacher inside."""
        return self._shared.head_weights()

    def save(self, folder: Path) -> None:
        """Write model and tokenizer into the folder (rank 0; the others help to gather)."""
        weights = self.trainer.engine.state_dict()
        if self.rank == 0:
            student = self.trainer.engine.module.student
            student.model.save_pretrained(folder, state_dict=merged(student.model, weights))
            write_modelling_file(student.model, folder)
            save_tokenizer(student.tokenizer.fast, folder)
        save_exported_modules(self.trainer.engine, folder, self.rank)

    def save_state(self, folder: Path, step: int) -> None:
        """Write what is needed to continue exactly; every rank takes part."""
        self.trainer.save_state(step, folder, self.rank)
        if self.rank == 0 and self.spoken is not None:
            shutil.copytree(self.spoken.folder, folder / TEACHER)

    def save_version(self, spoken: Spoken) -> None:
        """Write the running mean of the weights as the teacher's next version; every rank calls."""
        save_version(self.trainer.engine, spoken.folder, spoken.dtype, self.rank)
        self.take_version(spoken)

    def take_version(self, spoken: Spoken) -> None:
        """Expect signals of this version from now on."""
        self.spoken = spoken

    def sizes(self) -> tuple[int, int]:
        """About how many bytes the saved model has, and the state of a checkpoint beside it."""
        model, state = sizes(self.trainer.engine)
        return model, state + (model if self.spoken is not None else 0)

    @property
    def _shared(self) -> SharedTeacher:
        if self.trainer.shared is None:
            raise ValueError("no teacher runs inside this rank")
        return self.trainer.shared

    def _signals(
        self, teacher: str, reference: Any, documents: Sequence[Document]
    ) -> list[DocumentSignals]:
        """What a teacher says: fetched, or made here by the one inside."""
        shared = self.trainer.shared
        if shared is not None and shared.name == teacher:
            return shared.signals(documents)
        rows = self._get(teacher, reference)
        if self.spoken is None or self.spoken.teacher != teacher:
            return rows
        return without_version(rows, teacher, self.spoken.version)

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
