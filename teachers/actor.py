"""The thin Ray shell around a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from losses.base import Method
from losses.document import Document
from losses.mixture import Metric
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import DocumentScore
from teachers.snapshot import SnapshotTeacher
from teachers.source import ModelSource
from teachers.teacher import DocumentSignals, HeadWeights, Teacher
from teachers.tokenizer import Tokenizer


@dataclass(frozen=True)
class TeacherSpec:
    """All that an actor needs to build its teacher."""

    name: str
    source: ModelSource
    methods: tuple[Method, ...]
    device: str = "cpu"
    threads: int = 1
    token_budget: int = 4096
    start_token: str | None = None
    asks: Metric | None = None
    follows: bool = False
    """True if its weights are renewed in versions."""

    def build(self) -> Teacher:
        """Load tokenizer and weights."""
        tokenizer = Tokenizer.load(self.source, self.name, self.start_token)
        model = LanguageModel.load(self.source, tokenizer, self.device)
        kind = SnapshotTeacher if self.follows else Teacher
        return kind(model, self.methods, self.token_budget, self.asks)


class TeacherActor:
    """What Ray starts: one teacher, methods called by name, nothing decided here."""

    def build(self, spec: TeacherSpec) -> None:
        """Load the teacher."""
        torch.set_num_threads(spec.threads)
        self.spec, self.teacher = spec, spec.build()

    def renew(self, folder: Path, version: int) -> None:
        """See ``SnapshotTeacher.renew``.

        Raises:
            TypeError: this teacher does not follow the student.
        """
        if not isinstance(self.teacher, SnapshotTeacher):
            raise TypeError(f"teacher {self.spec.name} is frozen; expected TeacherSpec.follows")
        self.teacher.renew(folder, version, self.spec.source)

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """See ``Teacher.signals``."""
        return self.teacher.signals(documents)

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> tuple[int | DocumentSignals, ...]:
        """The number of documents, then what ``Teacher.signals_of_parts`` gives, each an object.

        The caller waits for the number: the signals stay unopened.
        """
        return (len(documents), *self.teacher.signals_of_parts(documents, parts))

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """See ``Teacher.evaluate``."""
        return self.teacher.evaluate(documents)

    def head_weights(self) -> HeadWeights:
        """See ``Teacher.head_weights``."""
        return self.teacher.head_weights()
