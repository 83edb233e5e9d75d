"""What a converter reads from next-token distributions, and the reading of it.

An entry is a prefix at one row: the bytes that a history's next token must begin with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from losses.byte_distributions.masses import RARE, added_masses, range_masses
from losses.byte_distributions.sorted_vocabulary import Ranges, SortedVocabulary
from losses.prediction import Head, Prediction


@dataclass(frozen=True)
class Asked:
    """Entries with their ranges, and single tokens; rows rise in all of them.

    Args:
        order: token id of each column of a sorted row.
        row: each entry's row.
        low: the first column of the tokens that begin with the entry's prefix.
        high: the column behind them.
        ranges: what may follow the entries.
        token_row: the row of each single token.
        token: its id.
    """

    order: Int64[np.ndarray, "column"]
    row: Int64[np.ndarray, "entry"]
    low: Int64[np.ndarray, "entry"]
    high: Int64[np.ndarray, "entry"]
    ranges: Ranges
    token_row: Int64[np.ndarray, "token"]
    token: Int64[np.ndarray, "token"]

    @classmethod
    def of(
        cls,
        table: SortedVocabulary,
        row: Int64[np.ndarray, "entry"],
        node: Int64[np.ndarray, "entry"],
        *,
        chain: bool = False,
    ) -> "Asked":
        """All symbols after each entry's node, no single tokens."""
        none = np.zeros(0, dtype=np.int64)
        first, last = table.trie.first[node], table.trie.last[node]
        ranges = table.symbols_after(node, chain=chain)
        return cls(table.order, row, first, last, ranges, none, none)

    def with_tokens(
        self, row: Int64[np.ndarray, "token"], token: Int64[np.ndarray, "token"]
    ) -> "Asked":
        """The same, and these single tokens."""
        return replace(self, token_row=row, token=token)

    def cut(self, rows: slice) -> "Asked":
        """What is asked of these rows, counted from the first of them."""
        entries = slice(*np.searchsorted(self.row, [rows.start, rows.stop]))
        ranges = slice(*np.searchsorted(self.ranges.owner, [entries.start, entries.stop]))
        tokens = slice(*np.searchsorted(self.token_row, [rows.start, rows.stop]))
        return Asked(
            order=self.order,
            row=self.row[entries] - rows.start,
            low=self.low[entries],
            high=self.high[entries],
            ranges=Ranges(
                self.ranges.owner[ranges] - entries.start,
                self.ranges.symbol[ranges],
                self.ranges.low[ranges],
                self.ranges.high[ranges],
            ),
            token_row=self.token_row[tokens] - rows.start,
            token=self.token[tokens],
        )

    @cached_property
    def sizes(self) -> list[int]:
        """How many numbers the answer has: totals, masses, tokens."""
        return [len(self.row), len(self.ranges.owner), len(self.token)]

    def answer(
        self, logprobs: Float[Tensor, "row vocab"], rows: Int64[Tensor, "asked"]
    ) -> Float64[Tensor, "number"]:
        """Each entry's mass, each range's mass and each token's log-probability (nats).

        Args:
            logprobs: a table of log-probabilities.
            rows: which of its rows are asked, rising.
        """
        device = logprobs.device
        order, (row, low, high) = _on(self.order, device), self._spans(device)
        row = rows[row]
        by_row = torch.argsort(row, stable=True)
        sums = range_masses(logprobs, order, row[by_row], low[by_row], high[by_row])
        sums = torch.empty_like(sums).index_copy(0, by_row, sums)
        totals, owner = sums[: len(self.row)], _on(self.ranges.owner, device)
        rare = torch.nonzero(totals.detach()[owner] < RARE).squeeze(-1) + len(self.row)
        if len(rare):
            exact = added_masses(logprobs, order, row[rare], low[rare], high[rare])
            sums = sums.index_copy(0, rare, exact)
        tokens = logprobs[rows[_on(self.token_row, device)], _on(self.token, device)].double()
        return torch.cat([sums, tokens])

    def _spans(self, device: torch.device) -> list[Int64[Tensor, "span"]]:
        """Row, first column and the column behind the last: of the entries, then the ranges."""
        ranges = self.ranges
        of_entries = (self.row, self.low, self.high)
        of_ranges = (self.row[ranges.owner], ranges.low, ranges.high)
        both = zip(of_entries, of_ranges, strict=True)
        return [_on(np.concatenate(pair), device) for pair in both]


@dataclass(frozen=True)
class Answer:
    """The numbers that ``Asked`` asks for."""

    totals: Float64[Tensor, "entry"]
    masses: Float64[Tensor, "range"]
    tokens: Float64[Tensor, "token"]


def ask(prediction: Prediction, positions: Int64[np.ndarray, "row"], asked: Asked) -> Answer:
    """Read a document's rows; gradients flow to the prediction where they are wanted.

    Args:
        prediction: of the document.
        positions: the place of each asked row in the sequence.
        asked: what to read; its rows are numbers of ``positions``.
    """
    source = _source(prediction, positions)
    on_device = torch.from_numpy(positions).to(prediction.device)
    parts = source.parts(np.ones(len(positions), dtype=np.int64))
    cuts = [asked.cut(part) for part in parts]
    numbers = [
        source.map_table(cut.answer, on_device[part]) for cut, part in zip(cuts, parts, strict=True)
    ]
    return _joined(cuts, numbers)


def ask_hidden(
    head: Head, hidden: Float[Tensor, "row hidden"], asked: Asked, elements: int
) -> Answer:
    """Read the rows that these final-norm hidden states make, ``elements`` at once."""
    size = max(1, elements // head.num_valid)
    parts = [slice(low, low + size) for low in range(0, len(hidden), size)]
    cuts = [asked.cut(part) for part in parts]
    numbers = []
    for cut, part in zip(cuts, parts, strict=True):
        logprobs = torch.log_softmax(head.logits(hidden[part]), -1)
        numbers.append(cut.answer(logprobs, torch.arange(len(logprobs), device=hidden.device)))
    return _joined(cuts, numbers)


def _joined(cuts: Sequence[Asked], numbers: Sequence[Float64[Tensor, "_"]]) -> Answer:
    split = [part.split(cut.sizes) for cut, part in zip(cuts, numbers, strict=True)]
    if not split:
        return Answer(*(torch.zeros(0, dtype=torch.float64) for _ in range(3)))
    return Answer(*(torch.cat(field) for field in zip(*split, strict=True)))


def _source(prediction: Prediction, positions: Int64[np.ndarray, "row"]) -> Prediction:
    """The prediction, or one that may be read at rows before unscored tokens too."""
    readable = np.append(prediction.scored.cpu().numpy(), False)
    readable = readable[:-1] | readable[1:]
    if readable[positions].all():
        return prediction
    scored = prediction.scored.clone()
    scored[torch.from_numpy(positions).to(scored.device) + 1] = True
    return Prediction(
        tokens=prediction.tokens,
        hidden=prediction.hidden,
        head=prediction.head,
        vocabulary=prediction.vocabulary,
        scored=scored,
        elements_in_memory=prediction.chunk_size * prediction.head.num_valid,
    )


def _on(array: Int64[np.ndarray, "n"], device: torch.device) -> Int64[Tensor, "n"]:
    return torch.from_numpy(array).to(device)
