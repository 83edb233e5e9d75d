"""The bounded stream of signals: teachers work ahead of the student, but only so far.

Only references pass through here; the driver never opens a signal.

    who          waits for                                   bounded by
    teacher      its next request                            ``prefetch`` steps ahead
    student      the signals of its step, from every teacher ``train.timeout_s``
    driver       the student's step
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from losses.document import Document
from orchestrator.renewal import Renewal


@dataclass(frozen=True)
class StepBatch:
    """The documents of one step, one list a rank, and the scored bytes of all together."""

    step: int
    shards: tuple[tuple[Document, ...], ...]
    num_scored_bytes: int

    @classmethod
    def of(cls, step: int, documents: Sequence[Document], num_ranks: int) -> "StepBatch":
        """Deal the documents to the ranks.

        >>> from losses.document import text_document
        >>> batch = StepBatch.of(0, [text_document(c, c * 2) for c in "abcd"], num_ranks=2)
        >>> [[d.name for d in shard] for shard in batch.shards], batch.num_scored_bytes
        ([['a', 'c'], ['b', 'd']], 8)
        """
        shards = tuple(tuple(documents[rank::num_ranks]) for rank in range(num_ranks))
        return cls(step, shards, sum(document.num_scored_bytes for document in documents))


@dataclass(frozen=True)
class Request:
    """A batch and, for each rank, the references of its signals by teacher."""

    batch: StepBatch
    references: tuple[dict[str, Any], ...]


def stream(
    batches: Iterator[StepBatch],
    teachers: dict[str, Any],
    prefetch: int,
    renewal: Renewal | None = None,
) -> Iterator[Request]:
    """Requests in order, with up to ``prefetch`` later ones already in the teachers' hands.

    Args:
        batches: what to train on, step by step.
        teachers: actor handles by name; none gives requests without references.
        prefetch: steps asked for ahead of the one handed out.
        renewal: a teacher that follows the student; what is asked ahead ends where it is renewed,
            and goes on from there. The first batch finds it as it must be.
    """
    waiting: deque[Request] = deque()
    first = True
    for batch in batches:
        if renewal is not None and renewal.is_due(batch.step) and not first:
            while waiting:
                yield waiting.popleft()
            renewal.renew(batch.step)
        first = False
        waiting.append(_ask(batch, teachers))
        if len(waiting) > prefetch:
            yield waiting.popleft()
    yield from waiting


def _ask(batch: StepBatch, teachers: dict[str, Any]) -> Request:
    references: tuple[dict[str, Any], ...] = tuple(
        {name: teacher.signals.remote(shard) for name, teacher in teachers.items()}
        for shard in batch.shards
    )
    return Request(batch, references)
