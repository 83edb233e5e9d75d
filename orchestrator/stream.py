"""The bounded stream of signals: teachers work ahead of the student, but only so far.

Only references pass through here; the driver never opens a signal.

    who          waits for                                   bounded by
    teacher      its next request                            ``Ahead``: steps and bytes
    student      the signals of its step, from every teacher ``train.timeout_s``
    driver       the student's step
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from losses.document import Document
from orchestrator.ahead import Ahead
from orchestrator.renewal import Renewal
from orchestrator.replicas import references_of


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
    """A batch and, for each rank, the references of its signals by teacher.

    ``worked`` tells by teacher how long it worked for this request, and waited for it.
    """

    batch: StepBatch
    references: tuple[dict[str, Any], ...]
    worked: dict[str, Any]

    @property
    def all_references(self) -> list[Any]:
        """Those of all ranks and teachers."""
        return [
            reference
            for answers in self.references
            for answer in answers.values()
            for reference in references_of(answer)
        ]


def stream(
    batches: Iterator[StepBatch],
    teachers: dict[str, Any],
    ahead: Ahead,
    renewal: Renewal | None = None,
) -> Iterator[Request]:
    """Requests in order, with later ones already in the teachers' hands.

    Args:
        batches: what to train on, step by step.
        teachers: actor handles by name; none gives requests without references.
        ahead: how much is asked for ahead of the one handed out.
        renewal: a teacher that follows the student; what is asked ahead ends where it is renewed,
            and goes on from there. The first batch finds it as it must be.
    """
    waiting: deque[Request] = deque()
    first = True
    for window in _windows(batches, ahead.window, renewal):
        if renewal is not None and renewal.is_due(window[0].step) and not first:
            while waiting:
                yield from _hand_out(waiting, ahead)
            renewal.renew(window[0].step)
        first = False
        while not ahead.has_room([request.all_references for request in waiting]):
            yield from _hand_out(waiting, ahead)
        waiting.extend(_ask(window, teachers))
        if len(waiting) > ahead.steps:
            yield from _hand_out(waiting, ahead)
    while waiting:
        yield from _hand_out(waiting, ahead)


def _hand_out(waiting: deque[Request], ahead: Ahead) -> Iterator[Request]:
    """The next request; once the student is done with it, its size is known."""
    request = waiting.popleft()
    yield request
    ahead.learn(request.all_references)


def _windows(
    batches: Iterator[StepBatch], size: int, renewal: Renewal | None
) -> Iterator[list[StepBatch]]:
    """Batches that are asked for together; one where a teacher is renewed begins a new window."""
    window: list[StepBatch] = []
    for batch in batches:
        if window and renewal is not None and renewal.is_due(batch.step):
            yield window
            window = []
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _ask(window: Sequence[StepBatch], teachers: dict[str, Any]) -> list[Request]:
    """Ask each teacher for all of the window before the next teacher is asked."""
    asked = [Request(batch, tuple({} for _ in batch.shards), {}) for batch in window]
    for name, teacher in teachers.items():
        for request in asked:
            for shard, references in zip(request.batch.shards, request.references, strict=True):
                references[name] = teacher.signals.remote(shard)
            request.worked[name] = teacher.worked.remote()
    return asked
