"""The ensemble of several teachers' distributions over the same outcomes.

The arithmetic mean (a mixture of the members) allows what any member allows; the geometric one (a
product, normed again) only what all of them allow. A member that is absent from a row leaves its
weight to those that are present.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Mean: TypeAlias = Literal["arithmetic", "geometric"]
"""Of the members' probabilities, or of their log-probabilities."""


def combine_logprobs(
    stack: Float[Tensor, "member row outcome"],
    weights: Float[Tensor, "member"],
    present: Bool[Tensor, "member row"],
    mean: Mean,
) -> Float[Tensor, "row outcome"]:
    """The members' mean distribution of each row, in nats.

    Args:
        stack: log-probabilities; -inf is allowed, and anything at all where a member is absent.
        weights: of the members, not negative; on each row those present are taken to add up to 1.
        present: which members say something about which row.
        mean: arithmetic or geometric.

    Raises:
        ValueError: a row has no member of positive weight, or none of its outcomes is possible
            for all members of a geometric mean.

    >>> stack = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log()
    >>> weights, present = torch.tensor([1.0, 3.0]), torch.ones(2, 1, dtype=torch.bool)
    >>> [f"{p:.3f}" for p in combine_logprobs(stack, weights, present, "arithmetic").exp()[0]]
    ['0.800', '0.200']
    >>> [f"{p:.3f}" for p in combine_logprobs(stack, weights, present, "geometric").exp()[0]]
    ['0.839', '0.161']
    """
    # In float64: a small weight must stay above 0, where it alone is present it is all of it.
    shares = _shares(weights.double(), present)
    shares = shares.to(torch.promote_types(stack.dtype, torch.float32))
    counted = (shares > 0).unsqueeze(-1)
    if mean == "arithmetic":
        logs = torch.where(counted, stack.to(shares) + shares.log().unsqueeze(-1), -torch.inf)
        return logs.logsumexp(0)
    product = torch.where(counted, stack.to(shares) * shares.unsqueeze(-1), 0).sum(0)
    _refuse_impossible(product)
    return torch.log_softmax(product, dim=-1)


def _shares(
    weights: Float[Tensor, "member"], present: Bool[Tensor, "member row"]
) -> Float[Tensor, "member row"]:
    """Each row's weights, of the members present alone, adding up to 1."""
    if bool((weights < 0).any()):
        raise ValueError(f"the members' weights are {weights.tolist()}; expected none below 0")
    parts = torch.where(present, weights.unsqueeze(-1), 0)
    total = parts.sum(0)
    if bool((total <= 0).any()):
        row = int(torch.argmax((total <= 0).int()))
        raise ValueError(
            f"row {row} has no member of positive weight; leave out the rows that no teacher says "
            "anything about"
        )
    return parts / total


def _refuse_impossible(product: Float[Tensor, "row outcome"]) -> None:
    """A geometric mean needs an outcome that every member thinks possible."""
    impossible = torch.isneginf(product).all(-1)
    if bool(impossible.any()):
        row = int(torch.argmax(impossible.int()))
        raise ValueError(
            f"row {row}: no outcome is possible for all members, so there is no geometric mean; "
            "use the arithmetic one"
        )
