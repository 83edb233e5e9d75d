"""The thin Ray shell around a teacher."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from losses.base import Method
from losses.document import Document
from losses.mixture import Metric
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.kinds import build_teacher
from teachers.patience import WHILE_ANSWERING, WHILE_STARTING, patience, started_again
from teachers.process_log import ProcessLog
from teachers.process_memory import Peak, ProcessMemory
from teachers.signal_cache.recording import SignalWriter, live_teacher
from teachers.snapshot import SnapshotTeacher, newest_version
from teachers.source import ModelSource
from teachers.speaker import Speaker
from teachers.stopwatch import Stopwatch, Worked
from teachers.teacher import Teacher
from teachers.teacher_source import TeacherSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherSpec:
    """All that an actor needs to build its teacher."""

    name: str
    source: TeacherSource
    methods: tuple[Method, ...]
    device: str = "cpu"
    threads: int = 1
    token_budget: int = 4096
    start_token: str | None = None
    asks: Metric | None = None
    follows: bool = False
    """True if its weights are renewed in versions."""
    record: SignalWriter | None = None
    """What writes its answers down."""
    versions: Path | None = None
    """Where the versions of one that follows the student lie."""
    log: Path | None = None
    """The file of its process's log."""
    patience_s: float = 600.0
    """Seconds after which a call that still runs writes its stacks into the log."""
    waits: bool = False
    """True if what it lacks for the time being is waited for, see ``teachers.patience``."""

    @property
    def model_source(self) -> ModelSource:
        """Where its weights come from.

        Raises:
            TypeError: it has none on this machine.
        """
        if not isinstance(self.source, ModelSource):
            kind = type(self.source).__name__
            raise TypeError(f"teacher {self.name} has a {kind}; expected a ModelSource")
        return self.source

    def build(self) -> Speaker:
        """See ``build_teacher``."""
        return build_teacher(self)


class TeacherActor:
    """What Ray starts, also again after it died: one teacher, methods called by name."""

    def __init__(self, spec: TeacherSpec) -> None:
        self.memory = ProcessMemory()
        self.log = ProcessLog(spec.log, spec.patience_s)
        torch.set_num_threads(spec.threads)
        self.spec = spec
        patience(WHILE_STARTING, endless=spec.waits and started_again())(self._load)
        self.watch = Stopwatch()
        log.info("teacher %s is ready", spec.name)

    def _load(self) -> None:
        """A version that was written in the meantime is found when this is tried again."""
        self.teacher = self.spec.build()
        versions = self.spec.versions
        if versions is not None and (found := newest_version(versions)):
            self.renew(*found)

    def ready(self) -> None:
        """Answers once the teacher is loaded."""

    def renew(self, folder: Path, version: int) -> None:
        """See ``SnapshotTeacher.renew``.

        Raises:
            TypeError: this teacher does not follow the student.
        """
        if not isinstance(self.teacher, SnapshotTeacher):
            raise TypeError(f"teacher {self.spec.name} is frozen; expected TeacherSpec.follows")
        self.teacher.renew(folder, version, self.spec.model_source)

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """See ``Teacher.signals``."""
        with self.watch.busy(), self.log.stacks_if_late():
            heard = patience(WHILE_ANSWERING, endless=self.spec.waits)
            found: list[DocumentSignals] = heard(self.teacher.signals, documents)
            return found

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> tuple[int | DocumentSignals, ...]:
        """The number of documents, then what ``Teacher.signals_of_parts`` gives, each an object.

        The caller waits for the number: the signals stay unopened.
        """
        return (len(documents), *self.teacher.signals_of_parts(documents, parts))

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """See ``Teacher.evaluate``."""
        with self.watch.busy(), self.log.stacks_if_late():
            return self.teacher.evaluate(documents)

    def enter(self, device: str, left: Sequence[Any] = ()) -> None:
        """Move the weights, if it has any, onto the device once whoever had it has left it."""
        if left:
            ray.wait(list(left))
        if isinstance(teacher := live_teacher(self.teacher), Teacher):
            teacher.move_to(device)

    def leave(self) -> None:
        """Move them into main memory."""
        self.enter("cpu")

    def worked(self) -> Worked:
        """How long it worked and waited since it was last asked this, and what it warns of."""
        return replace(self.watch.take(), warnings=self.log.take_warnings())

    def head_weights(self) -> HeadWeights:
        """See ``Teacher.head_weights``."""
        return self.teacher.head_weights()

    def peak_memory(self) -> Peak:
        """The most memory that this process took."""
        return self.memory.peak()
