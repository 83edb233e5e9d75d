"""The real stream with simulated teachers: steps a second, bytes a second, and who binds.

Every teacher is a Ray actor of its own that sleeps and sends bytes (no torch in it); stream,
prefetch, object store and fetching are those of a run. What ``orchestrator.planning.scaling`` says
of the same numbers stands beside what was measured.

    python -m benchmarks simulate [--teachers 8] [--steps 10]
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import ray

from benchmarks.local_ray import local_ray
from benchmarks.simulated_teachers import (
    BYTES_OF_A_TOKEN,
    SimulatedStudent,
    SimulatedTeacher,
    StepTimes,
)
from benchmarks.table import show
from losses.document import Document, text_document
from orchestrator.ahead import Ahead
from orchestrator.planning.scaling import Forecast
from orchestrator.stream import StepBatch, stream

DOCUMENTS = 4
TOKENS = 256
PREFETCH = 2
WARM_UP = 3
"""Steps that are not counted: the first ones wait for all that is asked ahead."""

BUSY = 0.85
"""Who works for this part of a step binds it."""


@dataclass(frozen=True)
class Case:
    """One line of the table; times are seconds of a step."""

    name: str
    teachers: int
    teacher_s: float
    student_s: float
    bytes_per_token: float

    @property
    def step_bytes(self) -> float:
        """Of all teachers together."""
        return self.teachers * DOCUMENTS * TOKENS * self.bytes_per_token


@dataclass(frozen=True)
class Found:
    """What a case came to.

    Args:
        step_s: seconds of a step.
        rate: bytes a second that the student received.
        binds: who made the step as long as it is.
    """

    step_s: float
    rate: float
    binds: str


def cases(teachers: int) -> list[Case]:
    """Student, teachers and bytes bind in turn; then more teachers of the first kind."""
    few = min(8, teachers)
    named = [
        Case("the student is slower", few, 0.25, 0.5, 12),
        Case("equal", few, 0.5, 0.5, 400),
        Case("the teachers are slower", few, 0.75, 0.25, 400),
        Case("hidden states, 4096 wide", few, 0.5, 0.5, 8_200),
        Case("many bytes", few, 0.05, 0.05, 12_304),
    ]
    counts = [n for n in (16, 32, 64) if n <= teachers]
    return named + [Case(f"{n} teachers", n, 0.5, 0.5, 400) for n in counts]


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--teachers", type=int, default=8, help="actors, such as 64")
    arguments.add_argument("--steps", type=int, default=10, help="that are counted, of each case")
    asked = arguments.parse_args()
    with local_ray():
        rows = list(_rows(Actors.start(asked.teachers), cases(asked.teachers), asked.steps))
    show(f"Simulated teachers, {DOCUMENTS} documents of {TOKENS} tokens a step", rows)


@dataclass(frozen=True)
class Actors:
    """Processes that play one case after the other."""

    teachers: Mapping[str, Any]
    student: Any

    @classmethod
    def start(cls, count: int) -> "Actors":
        """Start them and wait until they are there."""
        kind = ray.remote(SimulatedTeacher).options(num_cpus=0)
        teachers = {f"t{n}": kind.remote(f"t{n}", 0.0, 0.0) for n in range(count)}
        student = ray.remote(SimulatedStudent).options(num_cpus=0).remote(0.0)
        ray.get([actor.ready.remote() for actor in (*teachers.values(), student)])
        return cls(teachers, student)

    def play(self, case: Case) -> dict[str, Any]:
        """Those of the teachers that the case has."""
        chosen = {name: self.teachers[name] for name in list(self.teachers)[: case.teachers]}
        told = [t.become.remote(case.teacher_s, case.bytes_per_token) for t in chosen.values()]
        ray.get([*told, self.student.become.remote(case.student_s)])
        return chosen


def _rows(actors: Actors, chosen: Sequence[Case], steps: int) -> Iterator[dict[str, object]]:
    rate = measured_rate(actors, steps)
    for case in chosen:
        expected, found = expectation(case, rate), run(actors, case, steps)
        yield {
            "case": case.name,
            "teachers": case.teachers,
            "teacher, s": case.teacher_s,
            "student, s": case.student_s,
            "bytes a token": case.bytes_per_token,
            "steps/s": f"{1 / found.step_s:.2f}",
            "MB/s": f"{found.rate / 1e6:.2f}",
            "binds": found.binds,
            "expected steps/s": f"{1 / expected.step:.2f}",
            "expected": expected.binds,
            "off by": f"{found.step_s / expected.step - 1:+.0%}",
        }


def measured_rate(actors: Actors, steps: int) -> float:
    """Bytes a second from one teacher that sends as fast as it can to a student that only reads."""
    return run(actors, Case("rate", 1, 0.0, 0.0, 8_200), steps).rate


def expectation(case: Case, rate: float) -> Forecast:
    """What the planning formulas say: the slowest of those who work at the same time."""
    seconds = {
        "student": case.student_s,
        "teachers": case.teacher_s,
        "wire": case.step_bytes / rate,
    }
    return Forecast(seconds, 1, 1, 1, case.step_bytes / max(seconds.values()))


def run(actors: Actors, case: Case, steps: int) -> Found:
    """Some steps of the real stream."""
    teachers, student = actors.play(case), actors.student
    times: list[StepTimes] = []
    ends: list[float] = []
    for request in stream(_batches(steps + WARM_UP), teachers, Ahead(PREFETCH)):
        batch = request.batch
        asked = student.step.remote(batch.shards[0], request.references[0], batch.num_scored_bytes)
        times.append(ray.get(asked))
        ends.append(time.perf_counter())
    return _found(case, times[WARM_UP:], ends[WARM_UP - 1 :])


def _found(case: Case, times: Sequence[StepTimes], ends: Sequence[float]) -> Found:
    step = (ends[-1] - ends[0]) / len(times)
    rate = mean(found.received_bytes for found in times) / step
    busy: Mapping[str, float] = {
        "student": mean(found.trained for found in times) / step,
        "teachers": case.teacher_s / step,
    }
    slowest = max(busy, key=lambda name: busy[name])
    return Found(step, rate, slowest if busy[slowest] >= BUSY else "wire")


def _batches(count: int) -> Iterator[StepBatch]:
    for step in range(count):
        documents: list[Document] = [
            text_document(f"{step}/{n}", "x" * (TOKENS * BYTES_OF_A_TOKEN))
            for n in range(DOCUMENTS)
        ]
        yield StepBatch.of(step, documents, num_ranks=1)


if __name__ == "__main__":
    main()
