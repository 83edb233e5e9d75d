"""What a student rank is built from; plain data, sent to its process once."""

from dataclasses import dataclass
from pathlib import Path

from losses.alignment.projection import Projection
from losses.alignment.vocabulary import Vocabulary
from losses.base import Method
from losses.mixture import Schedule
from losses.mixture.targets import Mean
from orchestrator.student.adapters import LoraOptions
from orchestrator.student.engine import EngineOptions
from orchestrator.student.ensemble import ENSEMBLE
from orchestrator.student.new_tokenizer import NewTokenizer
from orchestrator.student.objective import Objective
from teachers.actor import TeacherSpec
from teachers.source import ModelSource


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
    """Seconds in which a teacher's signals must be there."""
    patience_s: float = 600.0
    """Seconds after which a step that still runs writes its stacks into the log."""
    token_budget: int = 2048
    resume_from: Path | None = None
    """The state folder of the checkpoint to continue from; None starts from ``source``."""
    lora: LoraOptions | None = None
    """The adapters; None trains the weights themselves."""
    new_tokenizer: NewTokenizer | None = None
    """The tokenizer that the student is given; None keeps that of ``source``."""
    shared: TeacherSpec | None = None
    """The teacher that runs in each rank on the student's own weights, if there is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """``ce`` and each ``teacher/method``, in the order of the objective's weights."""
        if self.ensemble is not None and self.terms:
            return ("ce", f"{ENSEMBLE}/{self.terms[0].method_name}")
        return ("ce", *(f"{term.teacher}/{term.method_name}" for term in self.terms))
