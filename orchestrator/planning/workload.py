"""What a run asks of each model: the lengths of its documents, step by step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from losses.document import Document
from orchestrator.config import RunConfig
from orchestrator.data import documents_of_step
from orchestrator.setup import STUDENT, Setup
from teachers.batching import packed_rows, token_budget_batches
from teachers.tokenizer import Tokenizer

MOST_STEPS = 500
"""Steps that are looked at; a longer run is taken to go on like its beginning."""


@dataclass(frozen=True)
class Batch:
    """Documents of one forward pass, by their tokens, and the table that holds them."""

    lengths: tuple[int, ...]
    rows: int
    columns: int

    @classmethod
    def of(cls, lengths: Sequence[int], *, packing: bool = False) -> "Batch":
        """Padded to the longest, or packed into rows of its length.

        >>> Batch.of([3, 5]).size, Batch.of([3, 5, 2], packing=True).rows
        (10, 2)
        """
        rows = len(packed_rows(lengths)) if packing else len(lengths)
        return cls(tuple(lengths), rows, max(lengths))

    @property
    def size(self) -> int:
        """Tokens with padding."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Reading:
    """One model's tokens.

    Args:
        steps: the lengths of the documents of each step.
        held_out: those of the documents of the final table.
        bytes_per_token: how much text a token stands for.
    """

    steps: tuple[tuple[int, ...], ...]
    held_out: tuple[int, ...]
    bytes_per_token: float

    @property
    def tokens_per_step(self) -> float:
        """Mean of all steps."""
        return sum(map(sum, self.steps)) / max(1, len(self.steps))

    @property
    def mean_length(self) -> float:
        """Tokens of a document of training."""
        return sum(map(sum, self.steps)) / max(1, sum(map(len, self.steps)))

    def largest_request(self, token_budget: int, share: int, *, packing: bool) -> Batch:
        """The largest forward pass of a teacher that is asked for a step in ``share`` parts."""
        parts = (step[rank::share] for step in self.steps for rank in range(share))
        return _largest(parts, token_budget, packing=packing)

    def largest_evaluation(self, token_budget: int, *, packing: bool) -> Batch:
        """The largest forward pass over the held-out documents."""
        return _largest([self.held_out], token_budget, packing=packing)

    def largest_micro_batch(self, micro_batch: int, ranks: int, *, packing: bool) -> Batch:
        """The largest pass of a rank that trains."""
        batches = (
            Batch.of(own[first : first + micro_batch], packing=packing)
            for step in self.steps
            for rank in range(ranks)
            for own in [sorted(step[rank::ranks], reverse=True)]
            for first in range(0, len(own), micro_batch)
        )
        return max(batches, key=lambda batch: (batch.size, sum(batch.lengths)))


def _largest(parts: Iterable[Sequence[int]], budget: int, *, packing: bool) -> Batch:
    found = (
        Batch.of([part[index] for index in members], packing=packing)
        for part in parts
        if part
        for members in token_budget_batches(part, budget, packing=packing)
    )
    return max(found, key=lambda batch: (batch.size, sum(batch.lengths)))


def workload(config: RunConfig, setup: Setup) -> dict[str, Reading]:
    """What each model reads, by name; the student's is ``student``."""
    documents, seen = setup.train.documents, setup.held_out.documents
    train = config.train
    places = {id(document): place for place, document in enumerate(documents)}
    steps = [
        [places[id(d)] for d in documents_of_step(documents, step, train.global_batch, train.seed)]
        for step in range(min(train.max_steps, MOST_STEPS))
    ]
    used = sorted({place for step in steps for place in step})
    found = {}
    for tokenizer in setup.tokenizers:
        chosen = [documents[place] for place in used]
        counts = dict(zip(used, _lengths(tokenizer, chosen), strict=True))
        num_bytes = sum(len(document.content) for document in chosen)
        found[tokenizer.name] = Reading(
            steps=tuple(tuple(counts[place] for place in step) for step in steps),
            held_out=tuple(_lengths(tokenizer, seen)),
            bytes_per_token=num_bytes / max(1, sum(counts.values())),
        )
    return found


def student_reading(readings: dict[str, Reading]) -> Reading:
    """The student's."""
    return readings[STUDENT]


def _lengths(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[int]:
    return [len(tokens) for tokens in tokenizer.encode(documents)]
