"""One process of a run: what it holds, what it computes, and the device that it does so on."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from losses.base import Pair
from losses.needs import Need
from losses.prediction import Head
from orchestrator.cluster import Machine, fair_gpus
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.config.method import MethodConfig
from orchestrator.planning.hardware import Hardware, cores, flops_of, seconds_per_entry
from orchestrator.planning.memory import Memory
from orchestrator.planning.skeleton import (
    Sizes,
    sizes_of,
    stored_bytes,
    student_skeleton,
    teacher_skeleton,
)
from orchestrator.planning.student_memory import StudentPlace, student_memory
from orchestrator.planning.teacher_memory import TeacherPlace, teacher_memory
from orchestrator.planning.timing import LOSS_PASSES, READING, TRAINING
from orchestrator.planning.wire import Wire, wire_of
from orchestrator.planning.workload import Reading
from orchestrator.setup import STUDENT, Setup
from orchestrator.sources import student_source, teacher_source
from orchestrator.specs import student_threads

CPU = "CPU"

UPDATE_PASSES = 1.5
"""AdamW reads and writes about as much of memory as so many log-softmaxes of as many numbers."""


@dataclass(frozen=True)
class ProcessPlan:
    """A teacher's replica, or a rank of the student.

    Args:
        count: how many are alike.
        gpus: of each; 0 runs on the CPU, a fraction shares a GPU.
        threads: of each on a CPU.
        sizes: of its model.
        memory: of each, without what Python and its packages take.
        capacity: bytes that each may take of its device.
        flops: of each in a step.
        seconds: of a step, if it had its device to itself.
    """

    count: int
    gpus: float
    threads: int
    sizes: Sizes
    memory: Memory
    capacity: int
    flops: float
    seconds: float

    @property
    def device(self) -> str:
        """Where each runs, in words."""
        return f"{self.gpus:g} GPU" if self.gpus else CPU


@dataclass(frozen=True)
class Planned:
    """What every part of a plan reads."""

    setup: Setup
    readings: Mapping[str, Reading]
    hardware: Hardware

    @property
    def machine(self) -> Machine:
        """The same as the run sees it."""
        return Machine(self.hardware.num_cpus, self.hardware.num_gpus)


def plan_teacher(
    teacher: TeacherConfig, config: RunConfig, planned: Planned
) -> tuple[ProcessPlan, Wire]:
    """One replica, and what the teacher sends.

    Raises:
        ResourcesError: it asks for a GPU and there is none.
    """
    source = teacher_source(teacher, config.student)
    model, read = teacher_skeleton(teacher, config), planned.readings[teacher.name]
    sizes = sizes_of(model)
    wire = wire_of(teacher, source, sizes, read, len(planned.setup.train.documents))
    gpus = fair_gpus(teacher.resources, teacher.device, config, planned.machine)
    replicas = teacher.resources.replicas
    place = TeacherPlace(
        on_cpu=not gpus,
        gpus=max(1, int(gpus)),
        ranks=config.student.num_ranks * replicas,
        signal_bytes=wire.per_step // (config.student.num_ranks * replicas),
    )
    memory = teacher_memory(teacher, model, sizes, stored_bytes(source), read, place)
    flops = sizes.forward_flops(read.tokens_per_step / replicas, read.mean_length)
    threads = 0 if gpus else (teacher.threads or 1)
    speed = flops_of(planned.hardware, source.torch_dtype, sizes.hidden, threads) * max(1, gpus)
    passes = LOSS_PASSES / 2 * sum(map(_reads_tables, teacher.methods))
    entries = passes * read.tokens_per_step / replicas * sizes.vocabulary
    seconds = flops / (speed * READING) + _table_seconds(entries, sizes, threads)
    capacity = _capacity(gpus, config, planned)
    found = ProcessPlan(replicas, gpus, threads, sizes, memory, capacity, flops, seconds)
    return found, wire


def plan_student(config: RunConfig, planned: Planned, sends: Mapping[str, Wire]) -> ProcessPlan:
    """One rank of the student."""
    source, ranks = student_source(config.student), config.student.num_ranks
    vocabulary = planned.setup.tokenizers[0].vocabulary
    model, read = student_skeleton(config, len(vocabulary)), planned.readings[STUDENT]
    sizes = sizes_of(model)
    gpus = fair_gpus(config.student.resources, config.student.device, config, planned.machine)
    others = sum(len(tokenizer.vocabulary) for tokenizer in planned.setup.tokenizers[1:])
    place = StudentPlace(
        on_cpu=not gpus,
        heads=sum(wire.once for wire in sends.values()),
        signal_bytes=sum(wire.per_step for wire in sends.values()) // ranks,
        ids=len(vocabulary) + others // 4,
        module_parameters=module_parameters(config, planned.setup, sizes),
    )
    memory = student_memory(config, model, sizes, stored_bytes(source), read, place)
    tokens = read.tokens_per_step / ranks
    again = config.student.gradient_checkpointing
    flops = sizes.training_flops(tokens, read.mean_length, recomputed=again)
    threads = 0 if gpus else student_threads(config, planned.machine)
    speed = flops_of(planned.hardware, source.torch_dtype, sizes.hidden, threads)
    methods = [entry for teacher in config.teachers for entry in teacher.methods]
    passes = 1 + LOSS_PASSES * sum(map(_reads_tables, methods))
    entries = passes * tokens * sizes.vocabulary + UPDATE_PASSES * sizes.trained / ranks
    seconds = flops / (speed * TRAINING) + _table_seconds(entries, sizes, threads)
    capacity = _capacity(gpus, config, planned)
    return ProcessPlan(ranks, gpus, threads, sizes, memory, capacity, flops, seconds)


def module_parameters(config: RunConfig, setup: Setup, sizes: Sizes) -> int:
    """Numbers that the methods train beside the student; nothing is allocated."""
    by_name = {tokenizer.name: tokenizer for tokenizer in setup.tokenizers}
    with torch.device("meta"):
        linear = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)
    total = 0
    for teacher in config.teachers:
        pair = Pair(
            by_name[STUDENT].vocabulary,
            by_name[teacher.name].vocabulary,
            projection=setup.projections.get(teacher.name),
            student_width=sizes.hidden,
            teacher_width=by_name[teacher.name].hidden_size,
            student_head=Head(linear, len(by_name[STUDENT].vocabulary)),
        )
        for entry in teacher.methods:
            if entry.method.trains_modules:
                with torch.device("meta"):
                    modules = entry.method.modules(pair)
                total += sum(p.numel() for p in modules.parameters())
    return total


def _reads_tables(entry: MethodConfig) -> bool:
    """True if the method reads whole distributions, which costs passes over the vocabulary."""
    return bool(entry.method.needs & {Need.TOP_K, Need.DISTRIBUTIONS})


def _table_seconds(entries: float, sizes: Sizes, threads: int) -> float:
    """On a GPU they hide behind the products."""
    return entries * seconds_per_entry(sizes.vocabulary) / cores(threads) if threads else 0.0


def _capacity(gpus: float, config: RunConfig, planned: Planned) -> int:
    """Of the host all of it, which the processes share; of a GPU the fraction asked for."""
    if not gpus:
        return planned.hardware.memory
    turns = config.resources.offload
    return int(planned.hardware.gpu_memory * (1.0 if turns else min(1.0, gpus)))
