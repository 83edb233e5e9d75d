"""Which teachers still speak, and what becomes of a run when one does not: ``faults.teacher_lost``.

    abort   the run ends; its message names the teacher
    wait    a silent teacher is waited for, with a warning each time it is late
    drop    the run goes on without it; the others take over its weight

Only one that is gone for good comes here: before that Ray has started its process again as often as
``faults.teacher_restarts`` says.
"""

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.actors import collect, kill
from orchestrator.config.faults import TeacherLostRule
from orchestrator.errors import TeacherLost
from orchestrator.student.arrival import Missing

log = logging.getLogger(__name__)


@dataclass
class Attendance:
    """The teachers of an arm that are not dropped.

    Args:
        rule: the run file's.
        teachers: their handles; a dropped one is taken out, so that nobody asks it again.
        live: the actors behind those that have processes.
        students: the ranks.
        dropped: the step from which each dropped one is left out; a checkpoint keeps it.
        has_ce: cross-entropy has a weight, so that there may be no teacher left.
        timeout_s: seconds in which the ranks must have answered.
    """

    rule: TeacherLostRule = "abort"
    teachers: MutableMapping[str, Any] = field(default_factory=dict)
    live: Mapping[str, Any] = field(default_factory=dict)
    students: Mapping[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    has_ce: bool = False
    timeout_s: float = 600.0

    def lose(self, missing: Missing, step: int) -> None:
        """Do what the rule says; the step can be tried again afterwards.

        Raises:
            TeacherLost: the run must end.
        """
        if self.rule == "wait" and not missing.died:
            log.warning("%s; waiting on (faults.teacher_lost: wait)", missing.text)
            return
        if self.rule != "drop":
            raise TeacherLost(missing.text)
        if len(self.teachers) < 2 and not self.has_ce:
            raise TeacherLost(
                f"{missing.text}; it cannot be dropped: no other teacher is left and "
                "mixture.ce_weight is 0"
            )
        self._drop(missing, step)

    def begin(self) -> None:
        """Tell new ranks whom an earlier process or attempt dropped."""
        if self.dropped:
            changes = self._leave_out()
            for name, step in self.dropped.items():
                log.warning("teacher %s stays dropped since step %d: %s", name, step, changes)

    def _drop(self, missing: Missing, step: int) -> None:
        name = missing.teacher
        self.dropped[name] = step
        del self.teachers[name]
        kill([self.live[name]] if name in self.live else [])
        changes = self._leave_out()
        text = f"TEACHER {name} IS DROPPED from step {step} on: {changes}"
        log.warning("%s; %s", missing.text, text)

    def _leave_out(self) -> str:
        """Tell the ranks; gives the weights as they change, in words."""
        asked = {
            name: rank.leave_out.remote(tuple(self.dropped)) for name, rank in self.students.items()
        }
        answers = collect(asked, self.timeout_s, "leaving out a teacher")
        changes = next(iter(answers.values()))
        texts = [f"{term} {before:g} -> {now:g}" for term, (before, now) in changes.items()]
        return f"weights {', '.join(texts)}"
