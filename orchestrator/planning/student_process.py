"""A rank of the student, and the teacher inside it where one shares its weights."""

from collections.abc import Mapping

import torch
from torch import nn

from losses.base import Pair
from losses.prediction import Head
from orchestrator.cluster import fair_gpus
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.planning.hardware import flops_of
from orchestrator.planning.optimizer_memory import optimizer_bytes, zero_of
from orchestrator.planning.processes import Planned, ProcessPlan, compares_tables, table_seconds
from orchestrator.planning.skeleton import (
    Sizes,
    sizes_of,
    stored_bytes,
    student_skeleton,
    teacher_skeleton,
)
from orchestrator.planning.student_memory import SharedPlace, StudentPlace, student_memory
from orchestrator.planning.teacher_process import table_passes
from orchestrator.planning.timing import LOSS_PASSES, READING, TRAINING
from orchestrator.planning.wire import Wire
from orchestrator.setup import STUDENT, Setup
from orchestrator.sources import student_source
from orchestrator.specs import student_threads

UPDATE_PASSES = 1.5
"""AdamW reads and writes about as much of memory as so many log-softmaxes of as many numbers."""


def plan_student(config: RunConfig, planned: Planned, sends: Mapping[str, Wire]) -> ProcessPlan:
    """One rank of the student.

    Args:
        config: the run.
        planned: what it reads, and the hardware.
        sends: what each teacher sends.
    """
    source, ranks = student_source(config.student), config.student.num_ranks
    vocabulary = planned.setup.tokenizers[0].vocabulary
    model, read = student_skeleton(config, len(vocabulary)), planned.readings[STUDENT]
    sizes = sizes_of(model)
    gpus = fair_gpus(config.student.resources, config.student.device, config, planned.machine)
    others = sum(len(tokenizer.vocabulary) for tokenizer in planned.setup.tokenizers[1:])
    place = StudentPlace(
        on_cpu=not gpus,
        heads=sum(wire.once for wire in sends.values()),
        signal_bytes=sum(wire.largest_step for wire in sends.values()) // ranks,
        ids=len(vocabulary) + others // 4,
        module_parameters=module_parameters(config, planned.setup, sizes),
        shared=_shared(config, planned),
    )
    memory = student_memory(config, model, sizes, stored_bytes(source), read, place)
    threads = 0 if gpus else student_threads(config, planned.machine)
    speed = flops_of(planned.hardware, source.torch_dtype, sizes.hidden, threads)
    trains, reads = _training_flops(config, planned, sizes), _reading_flops(config, planned, sizes)
    entries = _entries(config, planned, sizes, place.module_parameters)
    seconds = trains / (speed * TRAINING) + reads / (speed * READING)
    seconds += table_seconds(entries, sizes.vocabulary, threads)
    host = _host(config, sizes, place) if gpus else 0
    return ProcessPlan(ranks, gpus, threads, sizes, memory, host, trains + reads, seconds)


def _training_flops(config: RunConfig, planned: Planned, sizes: Sizes) -> float:
    """Of a rank's own forward and backward passes."""
    student, read = config.student, planned.readings[STUDENT]
    batches = read.micro_batches(config.micro_batch, student.num_ranks, packing=student.packing)
    return sizes.training_flops(
        read.padded(batches) / student.num_ranks,
        read.attended_length,
        recomputed=student.gradient_checkpointing,
    )


def _reading_flops(config: RunConfig, planned: Planned, sizes: Sizes) -> float:
    """What a rank does for teachers: their heads on hidden states, the passes of the one inside."""
    widths = {t.name: (t.hidden_size or 0, len(t.vocabulary)) for t in planned.setup.tokenizers}
    total = 0.0
    for teacher in config.teachers:
        read, (hidden, vocabulary) = planned.readings[teacher.name], widths[teacher.name]
        heads = sum(entry.method.needs_teacher_head for entry in teacher.methods)
        total += heads * 2 * read.tokens_per_step * hidden * vocabulary
        if teacher.share_weights:
            ranks = config.student.num_ranks
            batches = read.requests(teacher.token_budget, ranks, packing=teacher.packing)
            total += sizes.forward_flops(read.padded(batches), read.attended_length)
    return total / config.student.num_ranks


def _entries(config: RunConfig, planned: Planned, sizes: Sizes, extra: int) -> float:
    """Of a rank's tables over the vocabulary in a step; the update counts as such a table."""
    ranks = config.student.num_ranks
    methods = [entry for teacher in config.teachers for entry in teacher.methods]
    passes = 1 + LOSS_PASSES * sum(map(compares_tables, methods))
    tables = passes * planned.readings[STUDENT].tokens_per_step / ranks * sizes.vocabulary
    for teacher in config.teachers:
        if teacher.share_weights:
            tokens = planned.readings[teacher.name].tokens_per_step / ranks
            tables += table_passes(teacher) * tokens * sizes.vocabulary
    moved = (sizes.trained + extra) / (ranks if zero_of(config) else 1)
    return tables + UPDATE_PASSES * moved


def _shared(config: RunConfig, planned: Planned) -> SharedPlace | None:
    inside = [teacher for teacher in config.teachers if teacher.share_weights]
    return _shared_place(inside[0], config, planned) if inside else None


def _shared_place(teacher: TeacherConfig, config: RunConfig, planned: Planned) -> SharedPlace:
    """With another tokenizer the original rows stay beside the new ones."""
    original = sizes_of(teacher_skeleton(teacher, config))
    tables = 2 if original.embedding else 1
    rows = tables * original.vocabulary * original.hidden * original.element
    return SharedPlace(
        teacher,
        planned.readings[teacher.name],
        rows if config.student.transfers else 0,
        original.vocabulary,
    )


def _host(config: RunConfig, sizes: Sizes, place: StudentPlace) -> int:
    """Main memory of a rank that trains on a GPU: what DeepSpeed offloads, or all in its turn."""
    own = optimizer_bytes(config, sizes, place.module_parameters, on_cpu=False)
    if not config.resources.offload:
        return own.host
    return own.host + own.weights + own.masters + own.moments + own.average


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
