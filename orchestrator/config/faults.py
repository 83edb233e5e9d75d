"""The part ``faults`` of the run file: what happens when a process dies or says no numbers."""

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from pydantic import Field

from orchestrator.config.mixture import MixtureConfig
from orchestrator.config.problems import Problem
from orchestrator.config.section import Section
from orchestrator.config.teacher import TeacherConfig

TeacherLostRule: TypeAlias = Literal["abort", "wait", "drop"]


class FaultsConfig(Section):
    """What a run survives, and how; docs/faults.md explains it."""

    teacher_restarts: int = Field(3, ge=0)
    """Times a teacher's process is started again after it died; it answers the same request then,
    so the numbers are those of a run left alone. ``teacher_lost: wait`` has no limit."""
    teacher_lost: TeacherLostRule = "abort"
    """What happens when a teacher (the last of its replicas) does not come back, cannot reach its
    server or falls silent: abort ends the run, wait goes on waiting and trying, drop goes on
    without it (the other teachers take over its weight). It counts from the first step on."""
    student_restarts: int = Field(1, ge=0)
    """Times the ranks start again from the last checkpoint (without one from the start) after one
    of them died; the teachers stay as they are."""
    bad_documents: float = Field(0.01, ge=0, le=1)
    """Share of the training documents that a teacher may fail on (its hidden states or signals are
    not finite) before the run stops; it teaches nothing on such a document."""

    @property
    def max_restarts(self) -> int:
        """As Ray counts them: -1 is without limit."""
        return -1 if self.teacher_lost == "wait" else self.teacher_restarts


def faults_problems(
    faults: FaultsConfig, mixture: MixtureConfig, teachers: Sequence[TeacherConfig]
) -> Iterator[Problem]:
    """A rule that would leave nothing to train on."""
    if faults.teacher_lost == "drop" and len(teachers) == 1 and mixture.ce_weight == 0:
        yield Problem(
            ("faults", "teacher_lost"),
            f'drop of the only teacher, "{teachers[0].name}", leaves nothing to train on while '
            "mixture.ce_weight is 0; expected abort or wait, another teacher, or a ce_weight",
        )
