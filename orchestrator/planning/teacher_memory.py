"""Memory of a teacher's process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from losses.prediction import ELEMENTS_IN_MEMORY
from orchestrator.config import TeacherConfig
from orchestrator.planning.dry_run import Live, reading
from orchestrator.planning.memory import (
    ARCHITECTURE,
    TOKENIZER_ID,
    Memory,
    Moment,
    pieces,
    tables_read,
    together,
    worst,
)
from orchestrator.planning.skeleton import Sizes
from orchestrator.planning.workload import Batch, Reading, largest

BRANCH_TABLES = 6
"""Tables of float32 that summing to bytes takes beside the log-probabilities: masses, their sums
and the sorted vocabulary in float64."""


@dataclass(frozen=True)
class TeacherPlace:
    """Where a teacher runs and how it is asked.

    Args:
        on_cpu: whether its device is the host.
        gpus: that its weights are spread over, 1 at least.
        ranks: of the student; each asks for its share of a step.
        signal_bytes: of one request.
    """

    on_cpu: bool
    gpus: int
    ranks: int
    signal_bytes: int


def teacher_memory(
    teacher: TeacherConfig,
    model: PreTrainedModel,
    sizes: Sizes,
    stored: int,
    read: Reading,
    place: TeacherPlace,
) -> Memory:
    """Weights, the largest pass, row chunks, and keys and values where branches are followed.

    Args:
        teacher: its part of the run file.
        model: without weights.
        sizes: the model's numbers.
        stored: bytes of its weights on disk, 0 if that is not known.
        read: its documents.
        place: where it runs.
    """
    packing, budget = teacher.packing, teacher.token_budget
    request = largest(read.requests(budget, place.ranks, packing=packing))
    held = {"weights": sizes.weight_bytes // place.gpus}
    if place.on_cpu:
        held["tokenizer"] = TOKENIZER_ID * sizes.vocabulary
        held["code"] = ARCHITECTURE
        if any(entry.method.needs_teacher_head for entry in teacher.methods):
            held["head sent"] = sizes.vocabulary * sizes.hidden * sizes.element
    asked = [
        reading(model, request.rows, request.columns),
        tables_read(request, sizes.vocabulary, ELEMENTS_IN_MEMORY, copies_of(teacher)),
        keys_and_values(teacher, request, sizes),
        pieces(2, place.signal_bytes),
    ]
    moments = [
        Moment("signals", held, together(*asked)),
        _evaluation(teacher, model, sizes, read, held),
        Moment("loading", held, _loading(sizes, stored, place)),
    ]
    return worst(moments, on_cpu=place.on_cpu)


def copies_of(teacher: TeacherConfig) -> int:
    """Tables of log-probabilities alive at once."""
    branches = any(entry.method.needs_continuations for entry in teacher.methods)
    return 2 + BRANCH_TABLES * branches


def keys_and_values(teacher: TeacherConfig, batch: Batch, sizes: Sizes) -> Live:
    """Of a batch, where branches are followed."""
    if not any(entry.method.needs_continuations for entry in teacher.methods):
        return Live()
    each = batch.size * sizes.keys * sizes.element
    return pieces(2 * sizes.layers, each)


def _loading(sizes: Sizes, stored: int, place: TeacherPlace) -> Live:
    """Another number format on disk is read and converted."""
    converted = stored not in (0, sizes.weight_bytes)
    return pieces(1, stored) if place.on_cpu and converted else Live()


def _evaluation(
    teacher: TeacherConfig,
    model: PreTrainedModel,
    sizes: Sizes,
    read: Reading,
    held: Mapping[str, int],
) -> Moment:
    batch = largest(read.evaluations(teacher.token_budget, packing=teacher.packing))
    parts: Sequence[Live] = [
        reading(model, batch.rows, batch.columns),
        tables_read(batch, sizes.vocabulary, ELEMENTS_IN_MEMORY),
    ]
    return Moment("evaluation", held, together(*parts))
