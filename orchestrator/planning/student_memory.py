"""Memory of one rank of the student under DeepSpeed."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from losses.prediction import ELEMENTS_IN_MEMORY
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.planning.dry_run import Live, reading, training
from orchestrator.planning.memory import (
    ARCHITECTURE,
    FLOAT32,
    TOKENIZER_ID,
    Memory,
    Moment,
    pieces,
    tables_read,
    together,
    worst,
)
from orchestrator.planning.optimizer_memory import Optimizer, optimizer_bytes, zero_of
from orchestrator.planning.skeleton import Sizes
from orchestrator.planning.teacher_memory import copies_of, keys_and_values
from orchestrator.planning.workload import Batch, Reading, largest
from orchestrator.student.spec import StudentSpec

BACKWARD_TABLES = 3
"""Tables of one document alive in its backward pass beside those that were saved."""


@dataclass(frozen=True)
class SharedPlace:
    """A teacher inside the rank, which reads with the student's own weights.

    Args:
        teacher: its part of the run file.
        read: its documents.
        rows: bytes of the original input and output rows, where the student has others.
        vocabulary: columns of its tables.
    """

    teacher: TeacherConfig
    read: Reading
    rows: int
    vocabulary: int


@dataclass(frozen=True)
class StudentPlace:
    """Where the ranks run and what arrives there.

    Args:
        on_cpu: whether the device is the host.
        heads: bytes of the teachers' heads that are kept for full distributions.
        signal_bytes: of one step of a rank, from all teachers.
        ids: of all tokenizers and vocabularies that the rank holds.
        module_parameters: numbers that methods train beside the student.
        shared: the teacher inside, if there is one.
    """

    on_cpu: bool
    heads: int
    signal_bytes: int
    ids: int
    module_parameters: int = 0
    shared: SharedPlace | None = None


def student_memory(
    config: RunConfig,
    model: PreTrainedModel,
    sizes: Sizes,
    stored: int,
    read: Reading,
    place: StudentPlace,
) -> Memory:
    """Weights, gradients, optimizer, activations, row chunks, heads, signals.

    Args:
        config: the run.
        model: the student without weights.
        sizes: its numbers.
        stored: bytes of ``init`` on disk, 0 if that is not known.
        read: its documents.
        place: where it runs.
    """
    own = optimizer_bytes(config, sizes, place.module_parameters, on_cpu=place.on_cpu)
    held = _held(own, place)
    batch = largest(
        read.micro_batches(
            config.micro_batch, config.student.num_ranks, packing=config.student.packing
        )
    )
    in_pass = held | _in_pass(config, own)
    run = training(model, batch.rows, batch.columns, keep_gradients="gradients" not in in_pass)
    saved = Live(run.saved, run.saved, 0)
    moments = [
        Moment("loading", {"weights": stored * place.on_cpu}, pieces(1, sizes.weight_bytes)),
        Moment("losses", in_pass, together(saved, tables(config, batch, sizes))),
        Moment("backward pass", in_pass, run.peak),
        Moment("update", held | {"gradients": own.gradients}, pieces(1, own.copies)),
        _evaluation(config, model, sizes, read, held | {"gathered weights": own.gathered}),
    ]
    if place.shared is not None:
        moments.append(_inside(config, model, sizes, place.shared, held))
    if config.train.save_steps and place.on_cpu:
        moments.append(Moment("checkpoint", held, pieces(1, own.moments // 2)))
    return worst(moments, on_cpu=place.on_cpu)


def _in_pass(config: RunConfig, own: Optimizer) -> dict[str, int]:
    """Held while a micro-batch passes: gradients are there before it, or are sent away at once."""
    passes = config.train.global_batch // (config.micro_batch * config.student.num_ranks)
    found = {"gradients' bucket": own.bucket, "gathered weights": own.gathered}
    if passes > 1 or zero_of(config) > 1:
        found["gradients"] = own.gradients
    return found


def _inside(
    config: RunConfig,
    model: PreTrainedModel,
    sizes: Sizes,
    shared: SharedPlace,
    held: Mapping[str, int],
) -> Moment:
    """The shared teacher reads the rank's part of a step before the student trains on it."""
    teacher = shared.teacher
    batch = largest(
        shared.read.requests(
            teacher.token_budget, config.student.num_ranks, packing=teacher.packing
        )
    )
    live = together(
        reading(model, batch.rows, batch.columns),
        tables_read(batch, shared.vocabulary, ELEMENTS_IN_MEMORY, copies_of(teacher)),
        keys_and_values(teacher, batch, sizes),
    )
    return Moment(f"signals of {teacher.name}", held, live)


def tables(config: RunConfig, batch: Batch, sizes: Sizes) -> Live:
    """Log-probabilities that a micro-batch keeps for its backward pass, and those of it.

    A document that fits into one chunk keeps the student's table, and for every term that compares
    whole distributions the teacher's; a longer one keeps nothing and makes each chunk anew.
    """
    fits = sys.maxsize if zero_of(config) == 3 else ELEMENTS_IN_MEMORY
    chunk = max(1, fits // sizes.vocabulary)
    row = sizes.vocabulary * FLOAT32
    whole = [length for length in batch.lengths if length <= chunk]
    kept = [pieces(1 + _tables_of_terms(config), length * row) for length in whole]
    longest = min(max(batch.lengths), chunk)
    return together(*kept, pieces(BACKWARD_TABLES, longest * row))


def _tables_of_terms(config: RunConfig) -> int:
    methods = [entry.method for teacher in config.teachers for entry in teacher.methods]
    if config.mixture.ensemble is not None:
        return int(any(method.needs_teacher_head for method in methods))
    return sum(method.needs_teacher_head for method in methods)


def _held(own: Optimizer, place: StudentPlace) -> dict[str, int]:
    held = {
        "weights": own.weights,
        "master weights": own.masters,
        "moments": own.moments,
        "running mean": own.average,
        "teachers' heads": place.heads * (1 + place.on_cpu),
        "signals": place.signal_bytes,
        "original rows": 0 if place.shared is None else place.shared.rows,
    }
    if place.on_cpu:
        held["tokenizers"] = TOKENIZER_ID * place.ids
        held["code"] = ARCHITECTURE
    return {name: size for name, size in held.items() if size}


def _evaluation(
    config: RunConfig,
    model: PreTrainedModel,
    sizes: Sizes,
    read: Reading,
    held: Mapping[str, int],
) -> Moment:
    packing = config.student.packing
    batch = largest(read.evaluations(StudentSpec.token_budget, packing=packing))
    found = together(
        reading(model, batch.rows, batch.columns),
        tables_read(batch, sizes.vocabulary, ELEMENTS_IN_MEMORY),
    )
    return Moment("evaluation", held, found)
