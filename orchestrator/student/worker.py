"""The thin Ray shell around one student rank."""

import logging
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
from orchestrator.errors import TeacherLost
from orchestrator.gates.verdict import Gates, Verdict
from orchestrator.replicas import fetch
from orchestrator.run_logs import STUDENT, log_of
from orchestrator.student.adapters import merged
from orchestrator.student.arrival import (
    Arrival,
    Inbox,
    Missing,
    nothing_said,
    signals_by_document,
)
from orchestrator.student.build import build_trainer, load_student
from orchestrator.student.deepspeed import prepare_environment
from orchestrator.student.ngram_model import write_modelling_file
from orchestrator.student.received import Received
from orchestrator.student.shared_teacher import SharedTeacher
from orchestrator.student.spec import StudentSpec, TermSpec
from orchestrator.student.state import restore_random_state, save_exported_modules, sizes
from orchestrator.student.tokenizer_folder import save_tokenizer
from orchestrator.student.trainer import StepReport
from orchestrator.student.versions import Spoken, save_version
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.process_log import ProcessLog
from teachers.process_memory import Peak, ProcessMemory
from teachers.snapshot import without_version

__all__ = [
    "StudentSpec",
    "StudentWorker",
    "TermSpec",
    "build_trainer",
    "join_group",
    "load_student",
]

log = logging.getLogger(__name__)

TEACHER = "teacher"
"""Folder of a checkpoint's state with the version of the teacher that follows the student."""


class StudentWorker:
    """What Ray starts: one rank, methods called by name, nothing decided here."""

    def __init__(self, rank: int, run_folder: Path) -> None:
        self.rank = rank
        self.run_folder = run_folder
        self.received = Received()
        self.inbox = Inbox()
        self.left_out: tuple[str, ...] = ()
        """Teachers that are dropped: they say nothing any more."""
        self.log = ProcessLog(None, 0.0)
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
        self.log.close()
        self.log = ProcessLog(log_of(self.run_folder, f"{STUDENT}/{self.rank}"), spec.patience_s)
        device = "cuda" if spec.device != "cpu" and torch.cuda.is_available() else "cpu"
        prepare_environment(device, self.run_folder / "extensions" / str(self.rank))
        join_group(self.rank, spec.num_ranks, address)
        import deepspeed  # noqa: F401 - before the memory is looked at for the first time

        self.memory = ProcessMemory()
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.trainer = build_trainer(spec, device)
        if spec.resume_from is not None:
            restore_random_state(spec.resume_from, self.rank)
        log.info("rank %d is ready", self.rank)

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
        """Wait for what ``receive`` did not get yet, train; also gives the seconds waited for each.

        Raises:
            TeacherLost: a teacher's signals do not come.
        """
        missing = self.receive(documents, references).missing
        if missing is not None:
            raise TeacherLost(missing.text)
        inbox, self.inbox = self.inbox, Inbox()
        self.received.add(inbox.rows)
        signals = self._by_document(inbox, len(documents))
        with self.log.stacks_if_late():
            report = self.trainer.step(
                documents, signals, num_scored_bytes, measure_shares=measure_shares
            )
        return report, inbox.waited

    def receive(self, documents: Sequence[Document], references: dict[str, Any]) -> Arrival:
        """Fetch the signals of the next step, as far as they are not here yet.

        The first teacher whose signals do not come ends it; call again to wait on.
        """
        for teacher, reference in references.items():
            if teacher in self.inbox.rows or teacher in self.left_out:
                continue
            start = time.perf_counter()
            found = self._signals(teacher, reference, documents)
            rows = None if isinstance(found, Missing) else found
            self.inbox.put(teacher, rows, time.perf_counter() - start)
            if isinstance(found, Missing):
                return Arrival(found)
        return Arrival(bad=self.inbox.bad(documents))

    def leave_out(self, teachers: tuple[str, ...]) -> dict[str, tuple[float, float]]:
        """Go on without these teachers; see ``StudentTrainer.leave_out``."""
        self.left_out = teachers
        for teacher in teachers:
            self.inbox.rows.pop(teacher, None)
        return self.trainer.leave_out(teachers)

    def check(
        self, documents: Sequence[Document], references: dict[str, Any], gates: Gates
    ) -> list[Verdict]:
        """See ``StudentTrainer.check``; a document on which a teacher fails is not looked at.

        Raises:
            TeacherLost: a teacher's signals do not come.
            ValueError: there is no document of which all of them say something.
        """
        arrival = self.receive(documents, references)
        if arrival.missing is not None:
            raise TeacherLost(arrival.missing.text)
        inbox, self.inbox = self.inbox, Inbox()
        signals = self._by_document(inbox, len(documents))
        failed = {bad.document for bad in arrival.bad}
        sound = [i for i, document in enumerate(documents) if document.name not in failed]
        if not sound:
            first = arrival.bad[0]
            raise ValueError(
                f"teacher {first.teacher} fails on every document of the checks before training, "
                f"such as {first.document}: {first.reason}"
            )
        read = [documents[i] for i in sound]
        return self.trainer.check(read, [signals[i] for i in sound], gates)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """See ``StudentTrainer.evaluate``."""
        with self.log.stacks_if_late():
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

    def enter(self, device: str, left: Sequence[Any] = ()) -> None:
        """Move onto the device once whoever had it has left; see ``orchestrator.in_turn``."""
        if left:
            ray.wait(list(left))
        self.trainer.engine.move_to(device)

    def leave(self) -> None:
        """Move into main memory."""
        self.trainer.engine.move_to("cpu")

    def peak_memory(self) -> Peak:
        """The most memory that this process took."""
        return self.memory.peak()

    def received_bytes(self) -> Received:
        """What the teachers sent to this process in its steps."""
        return self.received

    def sizes(self) -> tuple[int, int]:
        """About how many bytes the saved model has, and the state of a checkpoint beside it."""
        model, state = sizes(self.trainer.engine)
        return model, state + (model if self.spoken is not None else 0)

    @property
    def _shared(self) -> SharedTeacher:
        if self.trainer.shared is None:
            raise ValueError("no teacher runs inside this rank")
        return self.trainer.shared

    def _by_document(self, inbox: Inbox, num_documents: int) -> list[DocumentSignals]:
        nothing = nothing_said(self.trainer)
        return signals_by_document(inbox.rows, nothing, self.left_out, num_documents)

    def _signals(
        self, teacher: str, reference: Any, documents: Sequence[Document]
    ) -> list[DocumentSignals] | Missing:
        """What a teacher says: fetched, or made here by the one inside."""
        shared = self.trainer.shared
        if shared is not None and shared.name == teacher:
            return shared.signals(documents)
        rows = self._get(teacher, reference)
        if isinstance(rows, Missing):
            return rows
        if self.spoken is None or self.spoken.teacher != teacher:
            return rows
        return without_version(rows, teacher, self.spoken.version)

    def _get(self, teacher: str, reference: Any) -> list[DocumentSignals] | Missing:
        limit = self.spec.timeout_s
        try:
            return fetch(reference, limit)
        except ray.exceptions.GetTimeoutError:
            text = f"teacher {teacher}: no signals for {limit:g} s"
            return Missing(teacher, f"{text}; raise train.timeout_s if it is only slow", died=False)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ConnectionError):
                raise
            return Missing(teacher, str(error.cause), died=True)  # its server
        except ray.exceptions.RayError as error:
            return Missing(teacher, f"teacher {teacher} died: {error}", died=True)


def join_group(rank: int, num_ranks: int, address: tuple[str, int]) -> None:
    """Set what torch.distributed reads; without them DeepSpeed would look for MPI."""
    os.environ["RANK"] = str(rank)
    os.environ["LOCAL_RANK"] = "0"
    os.environ["WORLD_SIZE"] = str(num_ranks)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address[0], str(address[1])
