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
    def most_tokens(self) -> int:
        """Of the largest step."""
        return max(map(sum, self.steps), default=0)

    @property
    def documents_per_step(self) -> float:
        """Mean of all steps."""
        return sum(map(len, self.steps)) / max(1, len(self.steps))

    @property
    def mean_length(self) -> float:
        """Tokens of a document of training."""
        return sum(map(sum, self.steps)) / max(1, sum(map(len, self.steps)))

    @property
    def attended_length(self) -> float:
        """Tokens of the document that the mean token is in: long ones hold more of the tokens."""
        squares = sum(length**2 for step in self.steps for length in step)
        return squares / max(1, sum(map(sum, self.steps)))

    def requests(self, token_budget: int, share: int, *, packing: bool) -> list[Batch]:
        """The forward passes of a teacher that is asked for each step in ``share`` parts."""
        parts = (step[rank::share] for step in self.steps for rank in range(share))
        return [batch for part in parts for batch in _batches(part, token_budget, packing=packing)]

    def evaluations(self, token_budget: int, *, packing: bool) -> list[Batch]:
        """The forward passes over the held-out documents."""
        return _batches(self.held_out, token_budget, packing=packing)

    def micro_batches(self, micro_batch: int, ranks: int, *, packing: bool) -> list[Batch]:
        """The passes of all ranks that train."""
        return [
            Batch.of(own[first : first + micro_batch], packing=packing)
            for step in self.steps
            for rank in range(ranks)
            for own in [sorted(step[rank::ranks], reverse=True)]
            for first in range(0, len(own), micro_batch)
        ]

    def padded(self, batches: Iterable[Batch]) -> float:
        """Tokens of a step, padding included, that all these batches of the steps hold."""
        return sum(batch.size for batch in batches) / max(1, len(self.steps))


def largest(batches: Iterable[Batch]) -> Batch:
    """The one that takes most memory; an empty one if there is none."""
    return max(
        batches, key=lambda batch: (batch.size, sum(batch.lengths)), default=Batch((1,), 1, 1)
    )


def _batches(lengths: Sequence[int], budget: int, *, packing: bool) -> list[Batch]:
    return [
        Batch.of([lengths[index] for index in members], packing=packing)
        for members in token_budget_batches(lengths, budget, packing=packing)
    ]


def workload(config: RunConfig, setup: Setup) -> dict[str, Reading]:
    """What each model reads, by name; the student's is ``student``."""
    documents, seen = setup.train.documents, setup.held_out.documents
    train = config.train
    places = {id(document): place for place, document in enumerate(documents)}
    steps = [
        [places[id(d)] for d in documents_of_step(documents, step, train.global_batch, train.seed)]
        for step in range(min(train.max_steps, MOST_STEPS))
    ]
    found = {}
    for tokenizer in setup.tokenizers:
        name = tokenizer.name
        own = [
            [place for place in step if name == STUDENT or documents[place].goes_to(name)]
            for step in steps
        ]
        used = sorted({place for step in own for place in step})
        chosen = [documents[place] for place in used]
        counts = dict(zip(used, _lengths(tokenizer, chosen), strict=True))
        num_bytes = sum(len(document.content) for document in chosen)
        found[name] = Reading(
            steps=tuple(tuple(counts[place] for place in step) for step in own),
            held_out=tuple(_lengths(tokenizer, seen)),
            bytes_per_token=num_bytes / max(1, sum(counts.values())),
        )
    return found


def _lengths(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[int]:
    return [len(tokens) for tokens in tokenizer.encode(documents)]
