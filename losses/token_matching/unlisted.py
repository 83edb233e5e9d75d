"""The mass that a row leaves to the tokens that are not listed.

One minus the listed masses would cancel: in float32 it is off by 1e-7, which is all there is where
a model is sure of a listed token. So the others are added up themselves.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def unlisted_mass(
    logprobs: Float[Tensor, "row vocab"],
    ids: Int64[Tensor, "row listed"],
    is_listed: Bool[Tensor, "row listed"],
) -> Float[Tensor, "row"]:
    """Each row's probability of all tokens but the listed ones.

    Args:
        logprobs: whole rows (nats).
        ids: listed tokens, those of a row all different.
        is_listed: False where an id only pads its row.

    >>> logprobs = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> ids, is_listed = torch.tensor([[1, 0]]), torch.tensor([[True, False]])
    >>> round(unlisted_mass(logprobs, ids, is_listed).item(), 6)
    0.7
    """
    mass: Tensor = _Unlisted.apply(logprobs, ids, is_listed)  # type: ignore[no-untyped-call]
    return mass


class _Unlisted(torch.autograd.Function):
    """Keeps the rows alone for the backward pass, not their probabilities."""

    @staticmethod
    def forward(
        ctx: Any,
        logprobs: Float[Tensor, "row vocab"],
        ids: Int64[Tensor, "row listed"],
        is_listed: Bool[Tensor, "row listed"],
    ) -> Float[Tensor, "row"]:
        ctx.save_for_backward(logprobs, ids, is_listed)
        return _others(logprobs, ids, is_listed).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _others(*ctx.saved_tensors).mul_(gradients[0].unsqueeze(-1)), None, None


def _others(
    logprobs: Float[Tensor, "row vocab"],
    ids: Int64[Tensor, "row listed"],
    is_listed: Bool[Tensor, "row listed"],
) -> Float[Tensor, "row vocab"]:
    """Probabilities, those of the listed tokens zero."""
    rows = is_listed.nonzero()[:, 0]
    probs = logprobs.exp()
    probs[rows, ids[is_listed]] = 0
    return probs
