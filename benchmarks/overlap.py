"""A step takes as long as its slowest part: teachers that sleep, a student that sleeps.

The real stream drives them over real Ray actors. A system that asks its teachers one after another
and then trains takes the sum; here a step may take 1.08 times the largest of them. The time is the
median of the steps after the first, which fills the stream; the mean beside it shows what else the
machine did.

    python -m benchmarks overlap [--steps 10] [--teachers 8]
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import ray

from benchmarks.local_ray import local_ray
from benchmarks.simulated_teachers import SimulatedStudent, SimulatedTeacher
from benchmarks.table import show
from losses.document import text_document
from orchestrator.ahead import Ahead
from orchestrator.stream import StepBatch, stream
from orchestrator.work import work_metrics

LIMIT = 1.08
"""Longest step, in units of its slowest part."""
L = 0.5
"""Seconds of a teacher's answer, and of the student's step."""
BYTES_PER_TOKEN = 1152.0
"""As hidden states of 576 numbers in 16 bits."""
DOCUMENTS = [text_document(str(index), "four" * 64) for index in range(8)]


@dataclass(frozen=True)
class Case:
    """Seconds of each teacher's answer and of the student's step."""

    teachers: tuple[float, ...]
    student: float

    @property
    def slowest(self) -> float:
        """What nobody can be faster than."""
        return max(*self.teachers, self.student)

    @property
    def serial(self) -> float:
        """What it takes one after another."""
        return sum(self.teachers) + self.student


CASES = (
    *(Case((L,) * count, L) for count in (1, 2, 4, 8)),
    Case((0.1, 0.3, L), 0.2),
    Case((0.1, 0.2, 0.3, 0.4), L),
)


@dataclass(frozen=True)
class StepSeen:
    """Seconds of one step, those that the student waited, and each teacher's own time."""

    seconds: float
    waited: float
    work: dict[str, float]


def main() -> None:
    """Print a row for each case; exit code 1 if a step takes too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="that are counted")
    parser.add_argument("--teachers", type=int, default=8, help="cases with at most so many")
    asked = parser.parse_args()
    chosen = [case for case in CASES if len(case.teachers) <= asked.teachers]
    with local_ray():
        actors = Actors()
        actors.start(chosen)
        measure(chosen[-1], actors, asked.steps)  # not counted: Ray still starts spare processes
        found = {case: measure(case, actors, asked.steps) for case in chosen}
    title = f"Overlap: seconds a step, median of {asked.steps}"
    show(title, [_row(case, steps) for case, steps in found.items()])
    late = [case for case, steps in found.items() if _step(steps) > LIMIT * case.slowest]
    if late:
        sys.exit(f"{len(late)} of {len(chosen)} cases above {LIMIT} times their slowest part")


@dataclass
class Actors:
    """Simulated processes by the seconds that they take; the cases share them."""

    _teachers: dict[float, list[Any]] = field(default_factory=lambda: defaultdict(list))
    _students: dict[float, Any] = field(default_factory=dict)

    def start(self, cases: Sequence[Case]) -> None:
        """Have all that the cases need: a process that starts slows the steps of the others."""
        for case in cases:
            self.teachers(case.teachers)
            self.student(case.student)
        teachers = [actor for known in self._teachers.values() for actor in known]
        ray.get([actor.ready.remote() for actor in (*teachers, *self._students.values())])

    def teachers(self, latencies: Sequence[float]) -> dict[str, Any]:
        """One for each number, by name."""
        for seconds, count in Counter(latencies).items():
            known = self._teachers[seconds]
            while len(known) < count:
                name = f"{seconds:g} s, {len(known)}"
                actor = ray.remote(SimulatedTeacher).options(num_cpus=0)
                known.append(actor.remote(name, seconds, BYTES_PER_TOKEN))
        free = {seconds: iter(known) for seconds, known in self._teachers.items()}
        return {f"t{place}": next(free[seconds]) for place, seconds in enumerate(latencies)}

    def student(self, seconds: float) -> Any:
        """The one that takes so long."""
        if seconds not in self._students:
            actor = ray.remote(SimulatedStudent).options(num_cpus=0)
            self._students[seconds] = actor.remote(seconds)
        return self._students[seconds]


def measure(case: Case, actors: Actors, steps: int) -> list[StepSeen]:
    """Drive the stream with these actors; the first step is not counted."""
    teachers, student = actors.teachers(case.teachers), actors.student(case.student)
    return list(_steps(teachers, student, 1 + steps))[1:]


def _steps(teachers: dict[str, Any], student: Any, count: int) -> Iterator[StepSeen]:
    batches = (StepBatch.of(step, DOCUMENTS, num_ranks=1) for step in range(count))
    began = time.perf_counter()
    for request in stream(batches, teachers, Ahead(2)):
        (shard,), (references,) = request.batch.shards, request.references
        times = ray.get(student.step.remote(shard, references, request.batch.num_scored_bytes))
        ended = time.perf_counter()
        waited = sum(times.waited.values())
        yield StepSeen(ended - began, waited, work_metrics(request.worked))
        began = ended


def _step(steps: list[StepSeen]) -> float:
    return median(step.seconds for step in steps)


def _row(case: Case, steps: list[StepSeen]) -> dict[str, object]:
    step = _step(steps)
    waited = sum(one.waited for one in steps) / len(steps)
    busy, idle = (
        [value for one in steps for name, value in one.work.items() if name.endswith(part)]
        for part in ("/busy_s", "/idle_s")
    )
    return {
        "teachers": " ".join(f"{n} × {s:g}" for s, n in Counter(case.teachers).items()),
        "student": f"{case.student:g}",
        "step": f"{step:.3f}",
        "mean": f"{mean(one.seconds for one in steps):.3f}",
        "/ slowest": f"{step / case.slowest:.3f}",
        "serial": f"{case.serial:g}",
        "serial / step": f"{case.serial / step:.2f}",
        "student waits": f"{waited:.3f}",
        "teacher busy": f"{sum(busy) / len(busy):.3f}",
        "teacher idle": f"{sum(idle) / len(idle):.3f}",
    }


if __name__ == "__main__":
    main()
