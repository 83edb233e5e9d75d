"""A member's next byte while the text grows byte by byte, whatever its tokens are.

The next byte's distribution is a sum over all segmentations of the text so far. The likely ones are
followed as a beam (``losses.byte_distributions.beam``), within the limits of ``Search``. Tokens
that all of them have in common are read for good: their keys and values are kept, and only what
differs behind them is asked for again.

Source: Vieira et al. 2024, arXiv:2412.03719 (algorithm).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from losses.byte_distributions import byte_table, floored
from losses.byte_distributions.beam import Beam, State
from losses.continuations import Continuation
from orchestrator.ensembling.context import Context
from orchestrator.ensembling.ends import end_ids
from orchestrator.ensembling.options import Search
from orchestrator.ensembling.prompts import PromptTokens
from teachers.backends.transformers import LanguageModel

SETTLED_AFTER = 4
"""Tokens of a history that are asked for again before common ones are read for good."""


class ByteReader:
    """One member beside a text that grows byte by byte; 256 is the end.

    A byte that no history of the beam can read is not the end of the member: the likeliest history
    goes on, and the bytes since its last token are cut greedily into the longest tokens. Where the
    vocabulary has no token for them the member is silent from there on.
    """

    @torch.no_grad()
    def __init__(
        self, model: LanguageModel, prompt: PromptTokens, search: Search, *, use_cache: bool
    ) -> None:
        self._vocabulary = model.tokenizer.vocabulary
        self._table = byte_table(self._vocabulary, end_ids(model))
        self._search = search
        self._context = Context(model, prompt.ids, use_cache=use_cache)
        healed = min(search.healed_tokens, prompt.num_text, len(prompt.ids) - 1)
        self._origin = len(prompt.ids) - healed
        self._content = b""
        self._settle([])
        self._states = [self._beam.begin(self._origin - 1)]
        for byte in self._bytes_of(prompt.ids[self._origin :]):
            self.read(byte)

    @torch.no_grad()
    def logprobs(self) -> Float64[Tensor, "outcome"] | None:
        """Of the next byte, or the end (nats); None if the member can say nothing more."""
        if not self._states:
            return None
        masses = self._beam.next_symbols(self._states, self._beam.ended(self._states))
        if not masses.sum() > 0:
            return None
        return floored(torch.from_numpy(masses)[None])[0]

    def content(self, symbol: int) -> bytes:
        """The bytes of an outcome."""
        return bytes([symbol])

    @torch.no_grad()
    def read(self, symbol: int) -> None:
        """Go on with a byte."""
        if not self._states:
            return
        best, self._content = self._states[0], self._content + bytes([symbol])
        self._states = self._beam.advanced(self._states, symbol) or self._restarted(best)
        self._beam.rows = {state.history: state.row for state in self._states}
        if self._longest >= SETTLED_AFTER:
            self._settle_common()

    @property
    def room(self) -> int | None:
        """How many more tokens fit; None: no limit is known."""
        room = self._context.room
        return None if room is None else room - self._longest - 1

    @property
    def _longest(self) -> int:
        """Tokens of a history that are not read for good."""
        return max((len(state.history.ids) for state in self._states), default=0)

    def _restarted(self, best: State) -> list[State]:
        """From the likeliest history, the bytes behind it cut into the longest tokens."""
        tokens = self._whole(best.history)
        behind = self._content[len(self._bytes_of(tokens[self._origin :])) :]
        pieces = [p for p in self._table.trie.cover([behind], len(behind))[0].tolist() if p >= 0]
        if self._bytes_of(pieces) != behind:
            return []
        self._settle([*tokens, *pieces])
        return [self._beam.begin(len(self._context.ids) - 1)]

    def _settle_common(self) -> None:
        """Read for good the tokens that all histories have in common."""
        whole = [self._whole(state.history) for state in self._states]
        common = _common_prefix(whole)
        if len(common) <= min(state.history.position for state in self._states) + 1:
            return
        self._settle(common)
        position, length = len(common) - 1, len(common)
        self._states = [
            replace(state, history=Continuation(position, tuple(tokens[length:])))
            for state, tokens in zip(self._states, whole, strict=True)
        ]
        self._beam.rows = {state.history: state.row for state in self._states}

    def _settle(self, ids: Sequence[int]) -> None:
        """Let the context be these tokens (none: what it is), and begin a beam on it."""
        if ids:
            kept = len(_common_prefix([self._context.ids.tolist(), list(ids)]))
            if kept < len(self._context.ids):
                self._context.crop(kept)
            self._context.extend(ids[kept:])
        self._beam = Beam(
            self._context.prediction(),
            self._context.continuations(),
            self._table,
            self._search.width,
            float(np.log(max(self._search.epsilon, 1e-300))),
        )

    def _whole(self, history: Continuation) -> list[int]:
        """All tokens of a history."""
        return [*self._context.ids[: history.position + 1].tolist(), *history.ids]

    def _bytes_of(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._vocabulary.token_bytes[index] or b"" for index in ids)


def _common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """What all rows begin with.

    >>> _common_prefix([[1, 2, 3], [1, 2], [1, 2, 4]])
    [1, 2]
    """
    shortest = min(rows, key=len)
    for place, token in enumerate(shortest):
        if any(row[place] != token for row in rows):
            return list(shortest[:place])
    return list(shortest)
