"""Memory of one rank of the student under DeepSpeed."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from losses.prediction import ELEMENTS_IN_MEMORY
from orchestrator.config import RunConfig
from orchestrator.config.deepspeed import zero_stage
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
from orchestrator.planning.skeleton import Sizes
from orchestrator.planning.workload import Batch, Reading
from orchestrator.student.spec import StudentSpec

BACKWARD_TABLES = 3
"""Tables of one document alive in its backward pass beside those that were saved."""

REDUCE_BUCKET = 500_000_000
"""Numbers in DeepSpeed's buffer of gradients unless ``reduce_bucket_size`` is set."""


@dataclass(frozen=True)
class StudentPlace:
    """Where the ranks run and what arrives there.

    Args:
        on_cpu: whether the device is the host.
        heads: bytes of the teachers' heads that are kept for full distributions.
        signal_bytes: of one step of a rank, from all teachers.
        ids: of all tokenizers and vocabularies that the rank holds.
        module_parameters: numbers that methods train beside the student.
    """

    on_cpu: bool
    heads: int
    signal_bytes: int
    ids: int
    module_parameters: int = 0


@dataclass(frozen=True)
class Optimizer:
    """Bytes a rank, by what they are.

    Args:
        weights: in the number format of the pass.
        gradients: before the update.
        masters: full-precision weights beside them, where there are any.
        moments: AdamW's two.
        average: a running mean of the masters.
        copies: what an update makes of the gradients, while it lasts.
        bucket: where gradients are reduced, as far as it is more than they take.
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    average: int
    copies: int
    bucket: int


def zero_of(config: RunConfig) -> int:
    """The stage that runs: bfloat16 gets 1 at least (``student.deepspeed``)."""
    return max(zero_stage(config.deepspeed), int(config.student.dtype == "bfloat16"))


def optimizer_bytes(config: RunConfig, sizes: Sizes, extra: int, *, on_cpu: bool) -> Optimizer:
    """What DeepSpeed and AdamW hold on each rank.

    Args:
        config: the run.
        sizes: the student's.
        extra: numbers that methods train.
        on_cpu: a CPU's buffers take only what was written into them.
    """
    stage, ranks, element = zero_of(config), config.student.num_ranks, sizes.element
    trained, whole = sizes.trained + extra, sizes.parameters + extra
    part = -(-trained // ranks) if stage else trained
    options: Mapping[str, Any] = config.deepspeed.get("zero_optimization", {})
    bucket = int(options.get("reduce_bucket_size", REDUCE_BUCKET)) * element
    spare = 0 if on_cpu or not 0 < stage < 3 else max(0, bucket - trained * element)
    narrow = element < FLOAT32
    return Optimizer(
        weights=whole * element // (ranks if stage == 3 else 1),
        gradients=(part if stage >= 2 else trained) * element,
        masters=part * FLOAT32 if stage else 0,
        moments=2 * part * FLOAT32,
        average=part * FLOAT32 * any(t.refresh is not None for t in config.teachers),
        copies=part * (element + FLOAT32 * narrow) if stage else 0,
        bucket=spare,
    )


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
    batch = read.largest_micro_batch(
        config.micro_batch, config.student.num_ranks, packing=config.student.packing
    )
    passes = config.train.global_batch // (config.micro_batch * config.student.num_ranks)
    accumulated = {"gradients": own.gradients} if passes > 1 else {}
    run = training(model, batch.rows, batch.columns)
    saved = Live(run.saved, run.saved, 0)
    gradients = {"gradients": own.gradients, "gradients' buffer": own.bucket}
    moments = [
        Moment("loading", {"weights": stored}, pieces(1, sizes.weight_bytes)),
        Moment("losses", held | accumulated, together(saved, tables(config, batch, sizes))),
        Moment("backward pass", held | accumulated, run.peak),
        Moment("update", held | gradients, _copies(own)),
        _evaluation(config, model, sizes, read, held),
    ]
    if config.train.save_steps and place.on_cpu:
        moments.append(Moment("checkpoint", held, pieces(1, own.moments // 2)))
    return worst(moments, on_cpu=place.on_cpu)


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
    }
    if place.on_cpu:
        held["tokenizers"] = TOKENIZER_ID * place.ids
        held["code"] = ARCHITECTURE
    return {name: size for name, size in held.items() if size}


def _copies(own: Optimizer) -> Live:
    return pieces(1, own.copies)


def _evaluation(
    config: RunConfig,
    model: PreTrainedModel,
    sizes: Sizes,
    read: Reading,
    held: Mapping[str, int],
) -> Moment:
    packing = config.student.packing
    batch = read.largest_evaluation(StudentSpec.token_budget, packing=packing)
    found = together(
        reading(model, batch.rows, batch.columns),
        tables_read(batch, sizes.vocabulary, ELEMENTS_IN_MEMORY),
    )
    return Moment("evaluation", held, found)
