"""What a run has too little of, and what would have to change."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.planning.hardware import GIB
from orchestrator.planning.optimizer_memory import zero_of
from orchestrator.planning.processes import CPU, ProcessPlan
from orchestrator.setup import STUDENT

IMPORTS = {"teacher": 390 * 2**20, "student": 450 * 2**20}
"""Bytes of a process with Python, torch and the rest before it loads anything (measured)."""

DRIVER = 600 * 2**20
"""Bytes of the process that was started, with tokenizers and text (measured)."""

RAY = 350 * 2**20
"""Bytes of Ray's own processes on a machine (measured)."""

HOST = "this machine's memory"

T = TypeVar("T")


@dataclass(frozen=True)
class Limit:
    """Something that there is only so much of.

    Args:
        name: what it is.
        needed: bytes.
        available: bytes.
        advice: what to change, if it is too little.
        unit: of both amounts.
    """

    name: str
    needed: int
    available: int
    advice: tuple[str, ...] = ()
    unit: str = "B"

    @property
    def load(self) -> float:
        """What is needed of what there is."""
        return self.needed / self.available if self.available else float(self.needed > 0)

    @property
    def is_broken(self) -> bool:
        """True if it does not fit."""
        return self.needed > self.available

    def advised(self, advice: Callable[[], tuple[str, ...]]) -> "Limit":
        """The same with what to change, which is only looked for if it is broken."""
        return replace(self, advice=advice()) if self.is_broken else self

    @property
    def amounts(self) -> str:
        """What is needed and what there is, in words."""
        if self.unit == "B":
            return f"{in_gib(self.needed)} of {in_gib(self.available)}"
        return f"{self.needed} of {self.available} {self.unit}"

    def __str__(self) -> str:
        return "; ".join([f"{self.name} needs {self.amounts}", *self.advice])


def in_gib(num_bytes: int | float) -> str:
    """A size in words.

    >>> in_gib(3 * 2**30), in_gib(2**20)
    ('3.00 GiB', '0.001 GiB')
    """
    return f"{num_bytes / GIB:.{2 if num_bytes >= GIB / 100 else 3}f} GiB"


def host_limit(processes: Mapping[str, ProcessPlan], store: int, memory: int) -> Limit:
    """This machine's memory, if everything runs on it.

    Args:
        processes: those whose device is the CPU, with their imports; the others' imports, and what
            waits there for its turn on a GPU.
        store: bytes in the object store.
        memory: bytes of the machine.
    """
    needed = DRIVER + RAY + store
    for name, process in processes.items():
        imports = IMPORTS["student" if name == STUDENT else "teacher"]
        own = process.memory.peak if process.device == CPU else 0
        needed += process.count * (own + process.host + imports)
    return Limit(HOST, needed, memory)


Change = tuple[str, RunConfig]
"""What to write, and the run with it."""


def student_changes(config: RunConfig) -> Iterator[Change]:
    """What makes the student smaller, the cheapest first; each also holds what came before."""
    micro = config.micro_batch
    while micro > 1:
        micro //= 2
        config = _changed(config, "train", micro_batch=micro)
        yield f"train.micro_batch: {micro}", config
    if not config.student.gradient_checkpointing:
        config = _changed(config, "student", gradient_checkpointing=True)
        yield "student.gradient_checkpointing: true", config
    if config.student.dtype == "float32":
        config = _changed(config, "student", dtype="bfloat16")
        yield "student.dtype: bfloat16", config
    for stage in range(zero_of(config) + 1, 4):
        if config.student.num_ranks > 1:
            zero = {**config.deepspeed.get("zero_optimization", {}), "stage": stage}
            config = config.model_copy(
                update={"deepspeed": {**config.deepspeed, "zero_optimization": zero}}
            )
            yield f"deepspeed.zero_optimization.stage: {stage}", config
    for _ in range(4):
        ranks = config.student.num_ranks * 2
        if config.train.global_batch % (ranks * config.micro_batch) == 0 and zero_of(config):
            config = _changed(config, "student", num_ranks=ranks)
            yield f"student.num_ranks: {ranks}", config


def teacher_changes(teacher: TeacherConfig) -> Iterator[tuple[str, TeacherConfig]]:
    """What makes a teacher smaller, the cheapest first; each also holds what came before."""
    budget = teacher.token_budget
    while budget > 256:
        budget //= 2
        teacher = teacher.model_copy(update={"token_budget": budget})
        yield f"token_budget: {budget}", teacher
    if teacher.dtype == "float32":
        teacher = teacher.model_copy(update={"dtype": "bfloat16"})
        yield "dtype: bfloat16", teacher
    for gpus in (2, 4, 8):
        if gpus > (teacher.resources.gpus or 1) and teacher.device != "cpu":
            resources = teacher.resources.model_copy(update={"gpus": float(gpus)})
            teacher = teacher.model_copy(update={"resources": resources})
            yield f"resources.gpus: {gpus}, model_options.device_map: auto", teacher


def first_that_fits(
    changes: Iterator[tuple[str, T]], peak: Callable[[T], int], room: int
) -> tuple[str, ...]:
    """The fewest changes, in order, with which the peak is within the room; what is left if none.

    >>> first_that_fits(iter([("a: 1", 5), ("b: 2", 3)]), lambda size: size, 4)
    ('set a: 1 and b: 2 (0.000 GiB)',)
    """
    names: list[str] = []
    least = None
    for name, changed in changes:
        key = name.partition(":")[0]
        names = [n for n in names if n.partition(":")[0] != key] + [name]
        least = peak(changed)
        if least <= room:
            return (f"set {' and '.join(names)} ({in_gib(least)})",)
    if least is None:
        return ("nothing in the run file makes it smaller; take a smaller model or a larger GPU",)
    tried = " and ".join(names)
    return (
        f"even {tried} needs {in_gib(least)}; take a smaller model, a larger GPU, or more of them",
    )


def _changed(config: RunConfig, part: str, **values: object) -> RunConfig:
    section = getattr(config, part).model_copy(update=values)
    changed: RunConfig = config.model_copy(update={part: section})
    return changed
