"""One arm of a run: a student trained from start to end, with its teachers or without."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from losses.document import Document
from orchestrator.actors import collect
from orchestrator.ahead import Ahead
from orchestrator.attendance import Attendance
from orchestrator.checkpoint import Inputs, Position, Retention, Tally, require_space
from orchestrator.checkpoint import save_checkpoint as write_checkpoint
from orchestrator.checkpoint import save_model as write_model
from orchestrator.config import RunConfig
from orchestrator.data import documents_of_step
from orchestrator.errors import TrainingDiverged
from orchestrator.interruption import StopRequest
from orchestrator.metrics import MetricsWriter, fault_metrics, gradient_shares, step_metrics
from orchestrator.quarantine import Quarantine
from orchestrator.renewal import Renewal
from orchestrator.replicas import Replicas
from orchestrator.stream import Request, StepBatch, stream
from orchestrator.student.arrival import Arrival, Bad
from orchestrator.student.trainer import StepReport
from orchestrator.work import work_metrics
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte

Progress: TypeAlias = Callable[[int, dict[str, float]], None]
"""Called after each step with the step's number and its metrics."""


@dataclass(frozen=True)
class Arm:
    """Student and teacher actors by name, and the terms' names (``ce`` first)."""

    students: dict[str, Any]
    teachers: dict[str, Any]
    names: tuple[str, ...]
    renewal: Renewal | None = None
    """How a teacher follows the student, if one does."""
    attendance: Attendance = field(default_factory=Attendance)
    """What becomes of a teacher that is lost."""


@dataclass(frozen=True)
class Course:
    """What an arm trains on, where it writes, and who may stop it.

    ``validation`` is scored at each checkpoint; empty if no best one is to be kept.
    """

    config: RunConfig
    folder: Path
    inputs: Inputs
    train: Sequence[Document]
    validation: Sequence[Document]
    stop: StopRequest

    def quarantine(self, tally: Tally) -> Quarantine:
        """Where documents go that a teacher fails on."""
        share = self.config.faults.bad_documents
        return Quarantine(self.folder, tally, len(self.train), share)

    def start(self) -> Position:
        """The position before the first step."""
        return Position(0, self.config.train.seed, self.inputs, Tally())


def train_arm(arm: Arm, course: Course, start: Position, progress: Progress) -> Tally:
    """Run the steps that are left; metrics go to the folder, checkpoints if they are asked for.

    Raises:
        Interrupted: a signal asked for it; the step in progress is done and saved.
        ResourcesError: the disk has no room for a checkpoint.
        RankLost: a rank died.
        WorkerLost: a rank did not answer in time, or a teacher is lost and may not be.
        ValueError: a teacher failed on too many documents.
    """
    config, tally = course.config.train, start.tally
    quarantine = course.quarantine(tally)
    quarantine.begin()
    course.stop.check(f"nothing was trained since {_place(start.step)}")
    arm.attendance.rule = course.config.faults.teacher_lost
    arm.attendance.pause = partial(_stop_if_asked, arm, course, tally)
    _require_space(arm, course, model_only=not config.save_steps)
    psutil.cpu_percent()  # the next call tells the mean since this one
    batches = batches_from(start.step, course.train, course.config)
    with MetricsWriter(course.folder, start.step) as metrics:
        for request in stream(batches, arm.teachers, _ahead(course.config), arm.renewal):
            began = time.perf_counter()
            values = _train_step(arm, request, course, quarantine)
            _count_time(tally, time.perf_counter() - began)
            step = request.batch.step
            if _every(config.logging_steps, step):
                metrics.write(step, values)
            progress(step, values)
            if _due(course, step + 1):
                metrics.sync()
                save_checkpoint(arm, course, step + 1, tally)
                course.stop.check(f"{_place(step + 1)} is saved; continue with --resume")
    return tally


def _train_step(
    arm: Arm, request: Request, course: Course, quarantine: Quarantine
) -> dict[str, float]:
    """One step, counted in the quarantine's tally, as metrics."""
    train, tally, began = course.config.train, quarantine.tally, time.perf_counter()
    quarantine.add(request.batch.step, gather(arm, request, train.timeout_s))
    measured = _every(train.gradient_share_steps, request.batch.step)
    report, waited = run_step(arm, request, measured, train.timeout_s)
    tally.add(report.num_tokens, gradient_shares(report, arm.names), waited)
    tally.num_bytes += request.batch.num_scored_bytes
    values = step_metrics(report, arm.names, waited, time.perf_counter() - began)
    return values | work_metrics(request.worked) | fault_metrics(tally)


def gather(arm: Arm, request: Request, timeout_s: float) -> list[Bad]:
    """Wait until every rank has the signals of a step; gives the documents that teachers fail on.

    Raises:
        WorkerLost: a rank is lost, or a teacher whose loss ends the run.
    """
    step, batch = request.batch.step, request.batch
    # A rank itself waits up to timeout_s for each teacher, and names the one that is late.
    limit = (1 + len(arm.teachers)) * timeout_s
    while True:
        pending = {
            name: student.receive.remote(shard, references)
            for (name, student), shard, references in zip(
                arm.students.items(), batch.shards, request.references, strict=True
            )
        }
        answers = collect(pending, limit, f"receiving the signals of step {step}")
        arrivals = [answers[name] for name in arm.students]
        missing = [arrival.missing for arrival in arrivals if arrival.missing is not None]
        if not missing:
            return [bad for arrival in arrivals for bad in arrival.bad]
        if not ask_again(arm, request, arrivals):
            arm.attendance.lose(missing[0], step)


def ask_again(arm: Arm, request: Request, arrivals: Sequence[Arrival]) -> bool:
    """Ask for what lost replicas owe to the ranks, of those that stand in for them.

    Args:
        arm: with the teachers that are left.
        request: gets the new references.
        arrivals: what each rank has.

    Returns:
        False if nothing was owed.
    """
    found = False
    shards = zip(arrivals, request.batch.shards, request.references, strict=True)
    for missing, shard, references in ((a.missing, s, r) for a, s, r in shards):
        handle = arm.teachers.get(missing.teacher) if missing and missing.died else None
        if missing and isinstance(handle, Replicas):
            owed = references[missing.teacher]
            references[missing.teacher] = handle.again(owed, shard)
            found |= references[missing.teacher] != owed
    return found


def _stop_if_asked(arm: Arm, course: Course, tally: Tally, step: int) -> None:
    """Save what is trained before ``step`` and stop, if a signal asked for it."""
    if course.stop.signum is not None and step:
        save_checkpoint(arm, course, step, tally)
    course.stop.check(f"{_place(step)} is what --resume continues from")


def _ahead(config: RunConfig) -> Ahead:
    train = config.train
    return Ahead(train.prefetch, train.prefetch_bytes, in_turns=config.resources.offload)


def _count_time(tally: Tally, seconds: float) -> None:
    tally.seconds += seconds
    tally.cpu_seconds += seconds * psutil.cpu_percent()


def batches_from(
    first: int, documents: Sequence[Document], config: RunConfig
) -> Iterator[StepBatch]:
    """The documents of each step that is left, dealt to the ranks."""
    train = config.train
    for step in range(first, train.max_steps):
        chosen = documents_of_step(documents, step, train.global_batch, train.seed)
        yield StepBatch.of(step, chosen, config.student.num_ranks)


def run_step(
    arm: Arm, request: Request, measure_shares: bool, timeout_s: float
) -> tuple[StepReport, dict[str, float]]:
    """One step on all ranks; waiting times are those of the slowest rank.

    Raises:
        TrainingDiverged: the loss or the gradient is not finite; names the step.
        RankLost: a rank died.
        SilentRank: a rank did not answer in time.
    """
    batch = request.batch
    pending = {
        name: student.step.remote(
            shard, references, batch.num_scored_bytes, measure_shares=measure_shares
        )
        for (name, student), shard, references in zip(
            arm.students.items(), batch.shards, request.references, strict=True
        )
    }
    try:
        answers = list(collect(pending, timeout_s, f"training step {batch.step}").values())
    except TrainingDiverged as error:
        raise TrainingDiverged(f"step {batch.step}: {error}") from error
    waits = [waited for _, waited in answers]
    return answers[0][0], {name: max(w[name] for w in waits) for name in waits[0]}


def evaluate_arm(
    arm: Arm, documents: Sequence[Document], timeout_s: float
) -> dict[str, list[DocumentScore]]:
    """Each teacher's and the student's (``student``) score of each document.

    Every rank takes part, since ZeRO-3 needs them all.
    """
    everyone = arm.teachers | arm.students
    pending = {name: actor.evaluate.remote(documents) for name, actor in everyone.items()}
    scores = collect(pending, timeout_s, "scoring documents")
    student = scores[next(iter(arm.students))]
    return {name: scores[name] for name in arm.teachers} | {"student": student}


def save_checkpoint(arm: Arm, course: Course, step: int, tally: Tally) -> None:
    """Add the checkpoint after ``step`` updates and delete those that need not stay."""
    _require_space(arm, course)
    train, bits = course.config.train, None
    if course.validation:
        students = Arm(arm.students, {}, arm.names)
        scores = evaluate_arm(students, course.validation, train.timeout_s)
        bits = bits_per_byte(scores["student"])
    position = Position(step, train.seed, course.inputs, tally, bits)

    def write_state(folder: Path) -> None:
        saving = {name: s.save_state.remote(folder, step) for name, s in arm.students.items()}
        collect(saving, train.timeout_s, f"saving the state of step {step}")

    write_checkpoint(course.folder, position, _model_writer(arm, train.timeout_s), write_state)
    Retention(train.save_total_limit, train.keep_best).apply(course.folder)


def save_final(arm: Arm, course: Course) -> None:
    """Write the trained model into ``final``."""
    train = course.config.train
    write_model(course.folder / "final", train.max_steps, _model_writer(arm, train.timeout_s))


def _model_writer(arm: Arm, timeout_s: float) -> Callable[[Path], None]:
    """All ranks take part (under ZeRO-3 each holds a piece); rank 0 writes."""

    def write(folder: Path) -> None:
        saving = {name: student.save.remote(folder) for name, student in arm.students.items()}
        collect(saving, timeout_s, "saving the model")

    return write


def _require_space(arm: Arm, course: Course, *, model_only: bool = False) -> None:
    first = next(iter(arm.students))
    asked = {first: arm.students[first].sizes.remote()}
    model, state = collect(asked, course.config.train.timeout_s, "measuring its size")[first]
    require_space(course.folder, model if model_only else model + state)


def _due(course: Course, done: int) -> bool:
    train = course.config.train
    at_end = done == train.max_steps
    due = bool(train.save_steps) and (at_end or done % train.save_steps == 0)
    return due or course.stop.signum is not None


def _place(step: int) -> str:
    return f"checkpoint-{step}" if step else "the start"


def _every(steps: int, step: int) -> bool:
    return bool(steps) and step % steps == 0
