"""Bytes of one process: what it holds all along, and the worst moment of what comes and goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.planning.dry_run import LARGE, Live
from orchestrator.planning.workload import Batch

FLOAT32 = 4

TOKENIZER_ID = 1400
"""Bytes that a tokenizer with its vocabulary takes for each id (measured: docs/planning.md)."""

FRAGMENTED = 1.6
"""Bytes that the C library's heap takes for each byte of small pieces at most (measured)."""

ARCHITECTURE = 32 * 2**20
"""Bytes of a model's code, which ``transformers`` imports when it is loaded (measured, too)."""


@dataclass(frozen=True)
class Moment:
    """Something that a process does.

    Args:
        name: what it is.
        held: bytes held all the while, by what they are.
        live: the most that comes and goes meanwhile.
    """

    name: str
    held: Mapping[str, int]
    live: Live = field(default_factory=Live)


@dataclass(frozen=True)
class Memory:
    """One process on its device.

    Args:
        peak: bytes at the worst moment.
        moment: which one that is.
        parts: what the peak is made of.
    """

    peak: int
    moment: str
    parts: Mapping[str, int]


def worst(moments: Sequence[Moment], *, on_cpu: bool) -> Memory:
    """The moment with the largest sum.

    On a CPU the small pieces that were freed stay with the process, so every moment has the most
    that any of them needed, and the gaps between them; a GPU's allocator gives freed memory to
    whoever asks next.

    >>> small = Live(total=10, small=10)
    >>> moments = [Moment("a", {"weights": 5}, small), Moment("b", {"weights": 6}, Live(1))]
    >>> worst(moments, on_cpu=False).peak, worst(moments, on_cpu=True).peak
    (15, 22)
    """
    kept = int(FRAGMENTED * max(moment.live.small for moment in moments))
    found = []
    for moment in moments:
        passing = kept + moment.live.large if on_cpu else moment.live.total
        parts = {**moment.held, moment.name: passing}
        found.append(Memory(sum(parts.values()), moment.name, parts))
    return max(found, key=lambda memory: memory.peak)


def together(*lives: Live) -> Live:
    """Alive at the same time."""
    return Live(
        sum(live.total for live in lives),
        sum(live.small for live in lives),
        sum(live.large for live in lives),
    )


def pieces(count: int, size: int) -> Live:
    """So many tensors of a size."""
    total = count * size
    return Live(total, 0, total) if size >= LARGE else Live(total, total, 0)


def tables_read(batch: Batch, vocabulary: int, elements: int, copies: int = 2) -> Live:
    """Log-probabilities in row chunks, one document after the other, without gradients.

    Args:
        batch: the documents.
        vocabulary: columns.
        elements: log-probabilities held at once (``ELEMENTS_IN_MEMORY``).
        copies: tables of a chunk alive at once: logits and their log-softmax.
    """
    rows = min(max(batch.lengths), max(1, elements // vocabulary))
    return pieces(copies, rows * vocabulary * FLOAT32)
