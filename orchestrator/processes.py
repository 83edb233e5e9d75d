"""The processes of one arm: teachers that stay, and ranks that may start again beside them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from losses.document import Document
from orchestrator import actors
from orchestrator.arm import Arm, Course
from orchestrator.attendance import Attendance
from orchestrator.checkpoint import STATE, Inputs
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.errors import SilentRank, TeacherLost, WorkerLost
from orchestrator.interruption import StopRequest
from orchestrator.outcome import Scores
from orchestrator.placement import Placement
from orchestrator.remembered import Memory
from orchestrator.renewal import Renewal
from orchestrator.run_logs import LOGS, log_of, who_hangs
from orchestrator.setup import Setup
from orchestrator.shared import TeacherInside
from orchestrator.signal_cache.record import recorded
from orchestrator.sources import teacher_source
from orchestrator.specs import student_spec, teacher_specs, with_longest
from orchestrator.starting_point import StartingPoint
from orchestrator.student.spec import StudentSpec
from orchestrator.turns import take_turns
from teachers.actor import TeacherSpec
from teachers.server.client import ServerLost

VERSIONS = "versions"
"""Folder of an arm with the version of the teacher that follows the student."""


@dataclass(frozen=True)
class Run:
    """What all arms of a run share.

    With ``memory`` no teacher is started: the arms train on what the teachers said once.
    ``before`` are scores that are known already; None is measured by each arm.
    """

    setup: Setup
    inputs: Inputs
    validation: Sequence[Document]
    machine: Machine
    stop: StopRequest
    memory: Memory | None = None
    before: Scores | None = None
    keep_models: bool = True


@dataclass
class Teachers:
    """The actors of the teachers that have processes, by name, and the references of their loading.

    ``stopped`` is true once they are not needed any more.
    """

    live: dict[str, Any] = field(default_factory=dict)
    loading: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False

    def stop(self) -> None:
        """End the processes and free what they held."""
        if not self.stopped:
            actors.kill(self.live.values())
        self.stopped = True


@contextmanager
def started_teachers(
    course: Course, run: Run, point: StartingPoint, placement: Placement
) -> Iterator[Teachers]:
    """Start the teachers of an arm, but those that were dropped; they are stopped at the end."""
    teachers = Teachers()
    try:
        if run.memory is None:
            specs = _specs(course, run, point)
            live, loading = actors.start_teachers(specs, course.config, placement)
            teachers.live.update(live)
            teachers.loading.update(loading)
        yield teachers
    finally:
        teachers.stop()


def _specs(course: Course, run: Run, point: StartingPoint) -> list[TeacherSpec]:
    folder, dropped = course.folder.absolute(), point.position.tally.dropped
    specs = [s for s in teacher_specs(course.config, run.machine) if s.name not in dropped]
    specs = recorded(specs, course.config, run.setup, checked=point.checkpoint is None)
    return [
        replace(
            with_longest(spec, run.setup),
            device="cpu" if course.config.resources.offload else spec.device,
            log=log_of(folder, spec.name),
            versions=folder / VERSIONS if spec.follows else None,
            waits=course.config.faults.teacher_lost == "wait",
        )
        for spec in specs
    ]


@contextmanager
def started_arm(
    course: Course, run: Run, point: StartingPoint, placement: Placement, teachers: Teachers
) -> Iterator[Arm]:
    """Start the ranks and bring them together with the teachers; the ranks stop at the end.

    Raises:
        RankLost: a rank died.
        WorkerLost: a rank did not answer in time, or a teacher is lost; says where their logs are.
    """
    config, folder = course.config, course.folder
    state = point.checkpoint / STATE if point.checkpoint else None
    spec = replace(_student(config, run), resume_from=state)
    students: dict[str, Any] = {}
    attendance = Attendance()
    try:
        students, preparing = actors.start_students(spec, config, placement, folder)
        everybody = teachers.loading | preparing
        actors.loaded(everybody, config.train.timeout_s)
        live, ranks = teachers.live, students
        if config.resources.offload:
            for actor in live.values():  # one that served ranks before may be on the device
                actor.leave.remote()
            live, ranks = take_turns(config, run.machine, live, students)
        speaking = run.memory.teachers(config) if run.memory else everyone(config, live, ranks)
        attendance = _attendance(config, point, teachers, speaking, ranks)
        renewal = renewal_of(config, folder, speaking, ranks, attendance)
        if renewal is not None:
            renewal.begin(point.position.step, state)
        _send_heads(config, attendance, point.position.step)
        attendance.begin()
        yield Arm(ranks, speaking, spec.names, renewal, attendance)
    except SilentRank as error:
        raise WorkerLost(f"{error}. {who_hangs(folder, error.names)}") from error
    except (TeacherLost, ServerLost) as error:
        text = f"{error}{_too_early(config, attendance)}. Logs are in {folder.absolute() / LOGS}"
        raise WorkerLost(text) from error
    finally:
        actors.kill(students.values())


def _too_early(config: RunConfig, attendance: Attendance) -> str:
    """Why the rule of the run file does not count, as long as it does not."""
    rule = config.faults.teacher_lost
    if rule == attendance.rule:
        return ""
    return (
        f"; faults.teacher_lost: {rule} counts from the first step on, which was not reached: see "
        "that the teacher can start, or take it out of the run file, then start the run again "
        "(--resume continues from a checkpoint)"
    )


def _student(config: RunConfig, run: Run) -> StudentSpec:
    tokenizers = run.setup.tokenizers
    vocabularies = {tokenizer.name: tokenizer.vocabulary for tokenizer in tokenizers}
    widths = {tokenizer.name: tokenizer.hidden_size for tokenizer in tokenizers}
    return student_spec(config, run.machine, vocabularies, run.setup.projections, widths)


def _attendance(
    config: RunConfig,
    point: StartingPoint,
    teachers: Teachers,
    speaking: dict[str, Any],
    students: dict[str, Any],
) -> Attendance:
    """Who is missing from ``speaking`` was dropped, at the latest when the ranks started anew."""
    dropped = point.position.tally.dropped
    for teacher in config.teachers:
        if teacher.name not in speaking:
            dropped.setdefault(teacher.name, point.position.step)
    return Attendance(
        rule=config.faults.teacher_lost if point.checkpoint else "abort",
        teachers=speaking,
        live=teachers.live,
        students=students,
        dropped=dropped,
        has_ce=config.mixture.ce_weight != 0,
        timeout_s=config.train.timeout_s,
    )


def everyone(
    config: RunConfig, live: Mapping[str, Any], students: Mapping[str, Any]
) -> dict[str, Any]:
    """The teachers in the run file's order: their actors, or what stands for the one inside."""
    inside = TeacherInside.of(students)
    found = {t.name: inside if t.share_weights else live.get(t.name) for t in config.teachers}
    return {name: handle for name, handle in found.items() if handle is not None}


def renewal_of(
    config: RunConfig,
    folder: Path,
    teachers: dict[str, Any],
    students: dict[str, Any],
    attendance: Attendance,
) -> Renewal | None:
    """How the teacher that follows the student is renewed; None if none does."""
    for teacher in config.teachers:
        if teacher.refresh is not None and teacher.name in teachers:
            return Renewal(
                teacher.name,
                teachers[teacher.name],
                students,
                teacher.refresh.every,
                folder.absolute() / VERSIONS,
                teacher_source(teacher, config.student).torch_dtype,
                config.train.timeout_s,
                partial(_send_head, teacher, attendance),
                attendance,
            )
    return None


def _send_heads(config: RunConfig, attendance: Attendance, step: int) -> None:
    for teacher in config.teachers:
        if teacher.name in attendance.teachers:
            _send_head(teacher, attendance, step)


def _send_head(teacher: TeacherConfig, attendance: Attendance, step: int) -> None:
    """A head goes from its teacher to the ranks through the object store, once a version."""
    name = teacher.name

    def ask() -> dict[str, Any]:
        head = attendance.teachers[name].head_weights.remote()
        ranks = attendance.students.items()
        return {number: rank.set_head.remote(name, head) for number, rank in ranks}

    if any(entry.method.needs_teacher_head for entry in teacher.methods):
        attendance.hear(name, ask, f"receiving {name}'s head", step)
