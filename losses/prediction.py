"""What a model says about one document, read in row chunks.

A full table of log-probabilities (tokens x vocabulary) of a long document would not fit in
memory, so losses never ask for one: they give ``map_rows`` a function of a few rows. A document
that fits in one chunk is computed once and shared by all losses; a longer one is computed chunk
by chunk and, where gradients are wanted, again in the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.continuations import Continuations

ELEMENTS_IN_MEMORY = 2**25
"""Log-probabilities held at once, per document: 128 MiB in fp32."""

RowFunction: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True)
class Head:
    """Final-norm hidden states to logits: linear, scale, soft-capping, padded rows cut.

    Args:
        linear: the output embedding; called as a module so that ZeRO-3 can gather its weight.
        num_valid: rows of the vocabulary; the padded rows beyond are cut off.
        scale: factor on the logits (Cohere's ``logit_scale``, 1 / Granite's ``logits_scaling``).
        softcap: Gemma 2's ``cap * tanh(logits / cap)``; None for none.
    """

    linear: nn.Module
    num_valid: int
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        """Logits in fp32 (or the hidden states' own precision, if that is finer)."""
        logits: Tensor = self.linear(hidden)[:, : self.num_valid]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


class Prediction:
    """One model's next-token distributions over one document.

    The row at position ``i`` is the distribution of token ``i + 1`` given tokens up to ``i``.

    Args:
        tokens: the model's view of the document.
        hidden: final-norm hidden states, one row a token.
        head: turns hidden states into logits.
        vocabulary: the model's vocabulary.
        scored: tokens that count, from ``scored_tokens``; never true at position 0.
    """

    def __init__(
        self,
        *,
        tokens: Tokens,
        hidden: Float[Tensor, "token hidden"],
        head: Head,
        vocabulary: Vocabulary,
        scored: Bool[Tensor, "token"],
        elements_in_memory: int = ELEMENTS_IN_MEMORY,
    ) -> None:
        self.tokens = tokens
        self.hidden = hidden
        self.head = head
        self.vocabulary = vocabulary
        self.scored = scored
        self.embed: Callable[[Tensor], Tensor] | None = None
        """Token ids to input embeddings; set by a model that gives them."""
        self.continuations: Continuations | None = None
        """The model, set by one that says what follows other tokens than these."""
        self.chunk_size = max(1, elements_in_memory // head.num_valid)
        self._rows_before = torch.roll(scored, -1)  # rows that predict a scored token
        self._used = torch.nonzero(scored | self._rows_before).squeeze(-1)
        self._cache: Tensor | None = None
        self._cache_has_graph = False

    @property
    def device(self) -> torch.device:
        """Where the hidden states are."""
        return self.hidden.device

    @property
    def scored_positions(self) -> Int64[Tensor, "scored"]:
        """Positions of the scored tokens; the row that predicts each is one before."""
        return torch.nonzero(self.scored).squeeze(-1)

    def embeddings(self, positions: Int64[Tensor, "row"]) -> Float[Tensor, "row width"]:
        """Input embeddings of the tokens at these positions, without gradients.

        Raises:
            ValueError: the model gives none.
        """
        if self.embed is None:
            raise ValueError("this prediction has no input embeddings; set Prediction.embed")
        with torch.no_grad():
            found: Tensor = self.embed(torch.from_numpy(self.tokens.ids).to(self.device)[positions])
        return found

    def map_rows(
        self, function: RowFunction, positions: Int64[Tensor, "row"], *args: Tensor
    ) -> Tensor:
        """``function(logprobs of these rows, *their args)``, chunk by chunk, concatenated.

        Args:
            function: takes log-probabilities ``[row, vocab]`` in nats and each of ``args`` cut
                to the same rows; returns one entry a row. Must be pure: it may run twice.
            positions: rows to read; each is scored or predicts a scored token.
            args: tensors whose first axis runs along ``positions``.

        Raises:
            ValueError: a position neither is scored nor predicts a scored token.
        """
        if self._in_one:
            return function(self._shared_rows(positions), *args)
        chunks = zip(*(t.split(self.chunk_size) for t in (positions, *args)), strict=True)
        outputs = [self._recomputed(function, rows, *cut) for rows, *cut in chunks]
        return torch.cat(outputs)

    def map_table(self, function: RowFunction, positions: Int64[Tensor, "row"]) -> Tensor:
        """``function(table, rows)`` of log-probabilities (nats) that include these rows.

        Unlike ``map_rows`` it cuts nothing out of the shared table, whose gradient is then made
        only once. ``table[rows]`` are the rows at these positions; the function must be pure.

        Args:
            function: takes a table ``[any, vocab]`` and the numbers of its rows.
            positions: rows to read; each is scored or predicts a scored token. ``parts`` says
                how many should be asked for at once.
        """
        if self._in_one:
            return function(self._shared_logprobs(), self._numbers(positions))
        rows = torch.arange(len(positions), device=self.device)
        return self._recomputed(function, positions, rows)

    def parts(self, sizes: Int64[np.ndarray, "group"]) -> list[slice]:
        """Consecutive groups of rows that fit in memory together; one group at least in each."""
        if self._in_one:
            return [slice(0, len(sizes))]
        ends, starts = np.cumsum(sizes), [0]
        while starts[-1] < len(sizes):
            before = ends[starts[-1] - 1] if starts[-1] else 0
            fitting = int(np.searchsorted(ends, before + self.chunk_size, side="right"))
            starts.append(max(fitting, starts[-1] + 1))
        return [slice(start, end) for start, end in pairwise(starts)]

    def _recomputed(self, function: RowFunction, rows: Tensor, *args: Tensor) -> Tensor:
        def compute(hidden: Tensor, *cut: Tensor) -> Tensor:
            return function(torch.log_softmax(self.head.logits(hidden), dim=-1), *cut)

        output: Tensor = checkpoint(compute, self.hidden[rows], *args, use_reentrant=False)
        return output

    @property
    def _in_one(self) -> bool:
        return len(self._used) <= self.chunk_size

    def _numbers(self, positions: Int64[Tensor, "row"]) -> Int64[Tensor, "row"]:
        """Where the shared table has these positions."""
        rows = torch.searchsorted(self._used, positions)
        known = rows < len(self._used)
        if not torch.equal(self._used[rows[known]], positions):
            raise ValueError(
                "map_rows was asked for a position that neither is scored nor predicts a scored "
                "token; expected positions among scored_positions or one before them"
            )
        return rows

    def _shared_rows(self, positions: Int64[Tensor, "row"]) -> Float[Tensor, "row vocab"]:
        rows, table = self._numbers(positions), self._shared_logprobs()
        first = int(rows[0]) if len(rows) else 0
        if not torch.equal(rows, torch.arange(first, first + len(rows), device=rows.device)):
            return table.index_select(0, rows)
        return table if len(rows) == len(table) else table[first : first + len(rows)]

    def _shared_logprobs(self) -> Float[Tensor, "used vocab"]:
        if self._cache is None or (torch.is_grad_enabled() and not self._cache_has_graph):
            self._cache = self._logprobs(self._used)
            self._cache_has_graph = torch.is_grad_enabled()
        return self._cache

    def _logprobs(self, positions: Int64[Tensor, "row"]) -> Float[Tensor, "row vocab"]:
        whole = len(positions) == len(self.hidden)
        hidden = self.hidden if whole else self.hidden[positions]
        return torch.log_softmax(self.head.logits(hidden), dim=-1)

    def logprob_of_scored(self) -> Float[Tensor, "scored"]:
        """Log-probability (nats) of each scored token, in the order of ``scored_positions``."""
        positions = self.scored_positions
        ids = torch.tensor(self.tokens.ids, device=self.device)[positions]
        return self.map_rows(gather, positions - 1, ids)

    def topk(
        self, positions: Int64[Tensor, "row"], k: int
    ) -> tuple[Float[Tensor, "row k"], Int64[Tensor, "row k"]]:
        """The ``k`` largest log-probabilities (nats) of each row and their ids."""
        with torch.no_grad():
            ids = self.map_rows(lambda table: table.topk(k).indices, positions)
        return self.map_rows(lambda table, cut: table.gather(-1, cut), positions, ids), ids

    def entropy(self, positions: Int64[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Entropy (nats) of each row; an impossible token adds nothing."""
        return self.map_rows(_entropy, positions)


def gather(logprobs: Float[Tensor, "row vocab"], ids: Int64[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Each row's entry at its id."""
    return logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _entropy(logprobs: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    probs = logprobs.exp()
    return -(probs * torch.where(probs == 0, 0, logprobs)).sum(-1)
