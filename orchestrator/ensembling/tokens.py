"""A member's next token, on the outcomes that all members with its vocabulary share.

The outcomes are the tokens that stand for text, by id, and one more: the end. A member's end is
the sum of its own ending tokens, which may be others than the next member's. Every other special
token, unused id and padded row is left out first, and what is left is made to add up to 1; only
then are members mixed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from losses.alignment.vocabulary import Vocabulary
from orchestrator.ensembling.context import Context
from orchestrator.ensembling.ends import end_ids
from orchestrator.ensembling.prompts import PromptTokens
from teachers.backends.transformers import LanguageModel


class TokenReader:
    """One member beside a text that grows token by token; the vocabulary's size is the end."""

    def __init__(self, model: LanguageModel, prompt: PromptTokens, *, use_cache: bool) -> None:
        self._vocabulary = model.tokenizer.vocabulary
        self._is_text = is_text(self._vocabulary)
        self._ends = end_ids(model)
        self._head = model.head
        self._context = Context(model, prompt.ids, use_cache=use_cache)

    @torch.no_grad()
    def logprobs(self) -> Float64[Tensor, "outcome"]:
        """Of the next token that stands for text, or the end (nats)."""
        return shared_outcomes(self._head.logits(self._context.last)[0], self._is_text, self._ends)

    def content(self, symbol: int) -> bytes:
        """The bytes of an outcome."""
        return self._vocabulary.token_bytes[symbol] or b""

    def read(self, symbol: int) -> None:
        """Go on with a token."""
        self._context.extend([symbol])

    @property
    def room(self) -> int | None:
        """How many more tokens fit; None: no limit is known."""
        return self._context.room


def shared_outcomes(
    logits: Float[Tensor, "vocab"], text: Bool[Tensor, "vocab"], ends: Sequence[int]
) -> Float64[Tensor, "outcome"]:
    """Log-probabilities (nats) of the tokens of text, the others impossible; last, of the end.

    >>> found = shared_outcomes(
    ...     torch.tensor([0.5, 0.25, 0.125, 0.125]).log(), torch.tensor([1, 0, 0, 0]).bool(), [2, 3]
    ... )
    >>> [round(p, 3) for p in found.exp().tolist()]
    [0.667, 0.0, 0.0, 0.0, 0.333]
    """
    wide = logits.double()
    end = wide[list(ends)].logsumexp(0, keepdim=True) if ends else wide.new_full((1,), -torch.inf)
    kept = torch.where(text.to(wide.device), wide, -torch.inf)
    return torch.log_softmax(torch.cat([kept, end]), -1)


def is_text(vocabulary: Vocabulary) -> Bool[Tensor, "vocab"]:
    """True for the ids that have bytes."""
    return torch.tensor([bool(content) for content in vocabulary.token_bytes])
