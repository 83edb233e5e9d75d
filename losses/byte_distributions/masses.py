"""Sums over ranges of sorted probabilities: the kernel of every converter.

A row is sorted once and summed up once in float64; a range is then the difference of two sums.
That loses a range of an unlikely prefix (float64 keeps 1e-16 of the whole row), so the ranges of
rare prefixes are added up entry by entry.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

ELEMENTS_IN_CACHE = 2**18
"""Sorted probabilities worked on at once."""
RARE = 1e-9
"""A prefix of less mass is added up entry by entry."""


def range_masses(
    logprobs: Float[Tensor, "row vocab"],
    order: Int64[Tensor, "column"],
    row: Int64[Tensor, "range"],
    low: Int64[Tensor, "range"],
    high: Int64[Tensor, "range"],
) -> Float64[Tensor, "range"]:
    """The mass of the columns ``low : high`` of each row, by sums over whole rows.

    Args:
        logprobs: in nats, by token id.
        order: token id of each column.
        row: the row of each range; they rise.
        low: first column.
        high: column behind the last one.
    """
    masses: Tensor = _RangeMasses.apply(logprobs, order, row, low, high)  # type: ignore[no-untyped-call]
    return masses


def added_masses(
    logprobs: Float[Tensor, "row vocab"],
    order: Int64[Tensor, "column"],
    row: Int64[Tensor, "range"],
    low: Int64[Tensor, "range"],
    high: Int64[Tensor, "range"],
) -> Float64[Tensor, "range"]:
    """The same, entry by entry: nothing cancels, however rare the range."""
    counts = high - low
    owner = torch.repeat_interleave(counts)
    first = low - (counts.cumsum(0) - counts)
    column = torch.arange(len(owner), device=row.device) + first[owner]
    entries = logprobs[row[owner], order[column]].double().exp()
    return torch.zeros(len(low), dtype=torch.float64, device=row.device).index_add(
        0, owner, entries
    )


class _RangeMasses(torch.autograd.Function):
    """Keeps only the log-probabilities for the backward pass, none of the sums."""

    @staticmethod
    def forward(
        ctx: Any,
        logprobs: Float[Tensor, "row vocab"],
        order: Int64[Tensor, "column"],
        row: Int64[Tensor, "range"],
        low: Int64[Tensor, "range"],
        high: Int64[Tensor, "range"],
    ) -> Float64[Tensor, "range"]:
        ctx.save_for_backward(logprobs, order, row, low, high)
        masses = torch.empty(len(row), dtype=torch.float64, device=logprobs.device)
        width = len(order) + 1
        for rows, ranges in _blocks(row, len(order)):
            sums = torch.zeros(
                rows.stop - rows.start, width, dtype=torch.float64, device=logprobs.device
            )
            sorted_rows = logprobs[rows].index_select(-1, order).exp()
            torch.cumsum(sorted_rows, -1, dtype=torch.float64, out=sums[:, 1:])
            flat, base = sums.view(-1), (row[ranges] - rows.start) * width
            masses[ranges] = flat[base + high[ranges]] - flat[base + low[ranges]]
        return masses.clamp_(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Float64[Tensor, "range"]) -> tuple[Tensor | None, ...]:
        logprobs, order, row, low, high = ctx.saved_tensors
        grads, width = torch.zeros_like(logprobs), len(order) + 1
        for rows, ranges in _blocks(row, len(order)):
            steps = torch.zeros((rows.stop - rows.start) * width, dtype=grad.dtype).to(grad.device)
            base = (row[ranges] - rows.start) * width
            steps.index_add_(0, base + low[ranges], grad[ranges])
            steps.index_add_(0, base + high[ranges], grad[ranges], alpha=-1)
            factors = steps.view(-1, width).cumsum(-1)[:, :-1]
            entries = logprobs[rows].index_select(-1, order).exp() * factors
            grads[rows] = grads[rows].index_copy(-1, order, entries.to(grads.dtype))
        return grads, None, None, None, None


def _blocks(row: Int64[Tensor, "range"], columns: int) -> Iterator[tuple[slice, slice]]:
    """Rows that fit in a cache, and the ranges on them."""
    if not len(row):
        return
    size = max(1, ELEMENTS_IN_CACHE // max(columns, 1))
    first, last = int(row[0]), int(row[-1]) + 1
    borders = torch.tensor([*range(first, last, size), last], device=row.device)
    cuts = torch.searchsorted(row, borders).tolist()
    for place, start in enumerate(range(first, last, size)):
        if cuts[place] < cuts[place + 1]:
            yield slice(start, min(start + size, last)), slice(cuts[place], cuts[place + 1])
