"""One arm of a run: a student trained from start to end, with its teachers or without."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from losses.document import Document
from orchestrator import checkpoint
from orchestrator.actors import collect
from orchestrator.config import RunConfig
from orchestrator.data import documents_of_step
from orchestrator.metrics import MetricsWriter, gradient_shares, step_metrics
from orchestrator.stream import Request, StepBatch, stream
from orchestrator.student.trainer import StepReport
from teachers.evaluation import DocumentScore

Progress: TypeAlias = Callable[[int, dict[str, float]], None]
"""Called after each step with the step's number and its metrics."""


@dataclass(frozen=True)
class Arm:
    """Student and teacher actors by name, and the terms' names (``ce`` first)."""

    students: dict[str, Any]
    teachers: dict[str, Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """What training one arm gave.

    ``shares`` are means over the steps where they were measured; ``cpu_percent`` is how busy
    this machine's cores were meanwhile.
    """

    seconds: float
    num_tokens: int
    shares: dict[str, float]
    waited: dict[str, float]
    cpu_percent: float


def train_arm(
    arm: Arm,
    documents: Sequence[Document],
    config: RunConfig,
    folder: Path,
    progress: Progress,
) -> Training:
    """Run all steps; metrics go to the folder, checkpoints too if the run asks for them."""
    start, num_tokens = time.perf_counter(), 0
    psutil.cpu_percent()  # the next call tells the mean since this one
    shares: list[dict[str, float]] = []
    waited_in_all = dict.fromkeys(arm.teachers, 0.0)
    with MetricsWriter(folder) as metrics:
        requests = stream(batches(documents, config), arm.teachers, config.train.prefetch)
        for request in requests:
            step, began = request.batch.step, time.perf_counter()
            measured = _every(config.train.gradient_share_steps, step)
            report, waited = run_step(arm, request, measured, config.train.timeout_s)
            values = step_metrics(report, arm.names, waited, time.perf_counter() - began)
            if _every(config.train.logging_steps, step):
                metrics.write(step, values)
            progress(step, values)
            num_tokens += report.num_tokens
            shares += [gradient_shares(report, arm.names)] if measured else []
            for name, seconds in waited.items():
                waited_in_all[name] += seconds
            _save_if_due(arm, config, folder, step)
    seconds = time.perf_counter() - start
    return Training(seconds, num_tokens, _means(shares), waited_in_all, psutil.cpu_percent())


def batches(documents: Sequence[Document], config: RunConfig) -> Iterator[StepBatch]:
    """Every step's documents, dealt to the ranks."""
    train = config.train
    for step in range(train.max_steps):
        chosen = documents_of_step(documents, step, train.global_batch, train.seed)
        yield StepBatch.of(step, chosen, config.student.num_ranks)


def run_step(
    arm: Arm, request: Request, measure_shares: bool, timeout_s: float
) -> tuple[StepReport, dict[str, float]]:
    """One step on all ranks; waiting times are those of the slowest rank.

    Raises:
        WorkerLost: a rank died or did not answer in time.
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
    # A rank itself waits up to timeout_s for each teacher, and names the one that is late.
    limit = (1 + len(arm.teachers)) * timeout_s
    answers = list(collect(pending, limit, f"training step {batch.step}").values())
    waits = [waited for _, waited in answers]
    return answers[0][0], {name: max(w[name] for w in waits) for name in arm.teachers}


def evaluate_arm(
    arm: Arm, documents: Sequence[Document], timeout_s: float
) -> dict[str, list[DocumentScore]]:
    """Each teacher's and the student's (``student``) score of each document.

    Every rank takes part, since ZeRO-3 needs them all.
    """
    everyone = arm.teachers | arm.students
    pending = {name: actor.evaluate.remote(documents) for name, actor in everyone.items()}
    scores = collect(pending, timeout_s, "scoring held-out documents")
    student = scores[next(iter(arm.students))]
    return {name: scores[name] for name in arm.teachers} | {"student": student}


def _save_if_due(arm: Arm, config: RunConfig, folder: Path, step: int) -> None:
    done = step + 1
    if config.train.save_steps and done % config.train.save_steps == 0:
        state = {"step": done}
        target = folder / f"checkpoint-{done}"
        checkpoint.save(arm.students, target, state, config.train.timeout_s)


def _every(steps: int, step: int) -> bool:
    return bool(steps) and step % steps == 0


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = rows[0] if rows else {}
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}
