"""The only backward arrow: every few steps the student's running mean becomes its teacher.

The stream drains first, so no signal of an older version is under way; each signal tells its
version, and the ranks refuse any other. A checkpoint keeps the version that was spoken then, so a
resumed run hears the same teacher.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from orchestrator.actors import collect
from orchestrator.atomic import atomic_folder, discard, remove_leftovers
from orchestrator.attendance import Attendance
from orchestrator.student.versions import Spoken
from orchestrator.student.worker import TEACHER
from teachers.snapshot import NAME, versions


@dataclass(frozen=True)
class Renewal:
    """How one teacher follows the student.

    Args:
        name: the teacher's.
        teacher: its actor.
        students: the ranks, by name.
        every: steps between two versions.
        folder: holds the version that is spoken.
        dtype: number format of its averaged weights.
        timeout_s: seconds in which all must have answered.
        renewed: called after each one with its step, to send what hangs on the weights.
        attendance: knows whether the teacher is dropped, and what to do when it is lost.
    """

    name: str
    teacher: Any
    students: Mapping[str, Any]
    every: int
    folder: Path
    dtype: torch.dtype
    timeout_s: float
    renewed: Callable[[int], None]
    attendance: Attendance = field(default_factory=Attendance)

    def is_due(self, step: int) -> bool:
        """True if a new version speaks from this step on."""
        return step % self.every == 0 and self.name not in self.attendance.dropped

    def begin(self, step: int, state: Path | None) -> None:
        """Give the teacher the version that speaks at the first step of this process.

        Args:
            step: the first one.
            state: the state folder of the checkpoint that is continued, if one is.

        Raises:
            ValueError: the checkpoint lacks the version that spoke then.
        """
        remove_leftovers(self.folder)
        if self.is_due(step):
            self.renew(step)
            return
        kept = None if state is None else state / TEACHER
        if kept is None or not kept.is_dir():
            raise ValueError(
                f"{kept} is missing, but teacher {self.name} spoke from it at step {step}; resume "
                "with the run file that the checkpoint was made with"
            )
        target = self._spoken(step).folder
        if not target.is_dir():
            with atomic_folder(target) as partial:
                shutil.copytree(kept, partial, dirs_exist_ok=True)
        self._ranks("take_version", step)
        self._speak(step)

    def renew(self, step: int) -> None:
        """Write the mean as it is after ``step`` updates, and let the teacher speak from it."""
        self._ranks("save_version", step)
        self._speak(step)

    def _spoken(self, step: int) -> Spoken:
        version = step // self.every
        return Spoken(self.name, version, self.folder / f"{NAME}{version}", self.dtype)

    def _ranks(self, method: str, step: int) -> None:
        spoken = self._spoken(step)
        asked = {n: getattr(s, method).remote(spoken) for n, s in self.students.items()}
        collect(asked, self.timeout_s, f"writing version {spoken.version} of {self.name}")

    def _speak(self, step: int) -> None:
        """Let the teacher load the version; then it is the only one.

        A teacher that is started again takes the newest there is. So newer ones, of steps that are
        trained again, go before; older ones stay until nobody can be loading them any more.
        """
        spoken = self._spoken(step)

        def ask() -> dict[str, Any]:
            return {self.name: self.teacher.renew.remote(spoken.folder, spoken.version)}

        for version, folder in versions(self.folder).items():
            if version > spoken.version:
                discard(folder)
        doing = f"loading version {spoken.version}"
        if not self.attendance.hear(self.name, ask, doing, step):
            return
        for version, folder in versions(self.folder).items():
            if version < spoken.version:
                discard(folder)
        self.renewed(step)
