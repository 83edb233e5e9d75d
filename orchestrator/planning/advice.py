"""What to change where memory does not suffice: the fewest keys with which it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.planning.gpus import CONTEXT
from orchestrator.planning.limits import (
    Limit,
    first_that_fits,
    student_changes,
    teacher_changes,
)
from orchestrator.planning.processes import CPU, Planned, ProcessPlan
from orchestrator.planning.student_process import plan_student
from orchestrator.planning.teacher_process import plan_teacher
from orchestrator.planning.wire import Wire
from orchestrator.setup import STUDENT

MORE_ROOM = "or give them more GPUs (resources.gpus), or let them take turns (resources.offload)"


@dataclass(frozen=True)
class Advisor:
    """Knows the run and everything that was planned of it."""

    config: RunConfig
    planned: Planned
    wire: Mapping[str, Wire]
    processes: Mapping[str, ProcessPlan]

    def on_gpu(self, limit: Limit, names: Sequence[str], *, in_turns: bool) -> tuple[str, ...]:
        """What would make these processes fit on one GPU."""
        over = limit.needed - limit.available
        room = {name: self._peak(name) + -over // names.count(name) for name in names}
        if in_turns:
            every = limit.available - CONTEXT * len(names)
            room = {name: every for name in names if self._peak(name) > every}
            return tuple(self._mended(name, least) for name, least in room.items())
        found = self._one_of(room)
        return (*found, MORE_ROOM) if len(names) > 1 else found

    def on_host(self, limit: Limit) -> tuple[str, ...]:
        """What would make the processes fit that run on the CPU of this machine."""
        over = limit.needed - limit.available
        on_cpu = {name: p for name, p in self.processes.items() if p.device == CPU}
        room = {name: p.memory.peak + -over // p.count for name, p in on_cpu.items() if p.sizes}
        return self._one_of(room) or ("take a machine with more memory",)

    def _one_of(self, room: Mapping[str, int]) -> tuple[str, ...]:
        """The changes that suffice, each alone; without any, why the largest does not shrink."""
        texts = {name: self._mended(name, least) for name, least in room.items()}
        enough = [text for text in texts.values() if "set " in text]
        if enough or not texts:
            return (", or ".join(enough),) if enough else ()
        return (texts[max(texts, key=self._peak)],)

    def _mended(self, name: str, room: int) -> str:
        if name == STUDENT:
            [text] = first_that_fits(student_changes(self.config), self._student, room)
            return text
        [teacher] = [t for t in self.config.teachers if t.name == name]
        if self.processes[name].device == CPU:
            teacher = teacher.model_copy(update={"device": "cpu"})
        [text] = first_that_fits(teacher_changes(teacher), self._teacher, room)
        return f"for {name} {text}"

    def _peak(self, name: str) -> int:
        return self.processes[name].memory.peak

    def _student(self, changed: RunConfig) -> int:
        return plan_student(changed, self.planned, self.wire).memory.peak

    def _teacher(self, changed: TeacherConfig) -> int:
        wire = self.wire[changed.name]
        return plan_teacher(changed, self.config, self.planned, wire).memory.peak
