"""Which teachers still speak, and what becomes of a run when one does not: ``faults.teacher_lost``.

    abort   the run ends; its message names the teacher
    wait    a silent teacher is waited for, with a warning each time it is late
    drop    the run goes on without it; the others take over its weight

Only one that is gone for good comes here: before that Ray has started its process again as often as
``faults.teacher_restarts`` says. Of several replicas the last one must be gone.
"""

import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from orchestrator.actors import collect, kill
from orchestrator.config.faults import TeacherLostRule
from orchestrator.errors import SilentTeacher, TeacherLost
from orchestrator.replicas import Replicas
from orchestrator.student.arrival import Missing

log = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[], Mapping[str, Any]]
"""Asks something; gives the references by the name of who answers."""


@dataclass
class Attendance:
    """The teachers of an arm that are not dropped.

    Args:
        rule: the run file's; ``abort`` until the first step begins.
        teachers: their handles; a dropped one is taken out, so that nobody asks it again.
        live: the actors behind those that have processes; a dropped one is taken out here too, so
            that ranks that start again do not hear of it.
        students: the ranks.
        dropped: the step from which each dropped one is left out; a checkpoint keeps it.
        has_ce: cross-entropy has a weight, so that there may be no teacher left.
        timeout_s: seconds in which the ranks must have answered.
        pause: called with the step before a teacher is waited for once more; it may end the run.
    """

    rule: TeacherLostRule = "abort"
    teachers: MutableMapping[str, Any] = field(default_factory=dict)
    live: MutableMapping[str, Any] = field(default_factory=dict)
    students: Mapping[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    has_ce: bool = False
    timeout_s: float = 600.0
    pause: Callable[[int], None] = lambda step: None

    def lose(self, missing: Missing, step: int) -> None:
        """Do what the rule says; the step can be tried again afterwards.

        Raises:
            TeacherLost: the run must end.
        """
        if missing.died and self._has_stand_in(missing):
            return
        if self.rule == "wait" and not missing.died:
            log.warning("%s; waiting on (faults.teacher_lost: wait)", missing.text)
            self.pause(step)
            return
        if self.rule == "wait":
            raise TeacherLost(f"{missing.text}; to wait on would not bring it back")
        if self.rule == "abort":
            raise TeacherLost(missing.text)
        if len(self.teachers) < 2 and not self.has_ce:
            raise TeacherLost(
                f"{missing.text}; it cannot be dropped: no other teacher is left and "
                "mixture.ce_weight is 0"
            )
        self._drop(missing, step)

    def hear(self, teacher: str, ask: Ask, doing: str, step: int) -> bool:
        """Wait for the answer to something that a teacher is asked besides its signals.

        Args:
            teacher: its name.
            ask: called again once the teacher has lost a process.
            doing: for messages.
            step: from which on it is dropped, if it is.

        Returns:
            False if it was dropped.

        Raises:
            TeacherLost: the run must end.
        """
        asked = ask()
        while teacher not in self.dropped:
            try:
                collect(asked, self.timeout_s, doing)
                return True
            except SilentTeacher as error:
                self.lose(Missing(teacher, str(error), died=False), step)
            except TeacherLost as error:
                self.lose(Missing(teacher, str(error), died=True), step)
                asked = ask() if teacher not in self.dropped else {}
        return False

    def _has_stand_in(self, missing: Missing) -> bool:
        handle = self.teachers.get(missing.teacher)
        if not isinstance(handle, Replicas) or not (lost := handle.stand_in()):
            return False
        log.warning("%s; REPLICAS LOST: %d, the others read for them", missing.text, lost)
        return True

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
        kill([self.live.pop(name)] if name in self.live else [])
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
