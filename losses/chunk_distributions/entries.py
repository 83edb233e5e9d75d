"""The entries of W in the columns that a block of rows asks for, as flat lists."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from losses.chunk_distributions.columns import Columns


@dataclass(frozen=True)
class Entries:
    """From which student token of the block's rows to which of its listed cells.

    Args:
        source: place in the block's flattened rows.
        cell: place in the block's flattened cells.
        weight: the entry's weight.
        number: which entry of W it is.
    """

    source: Int32[Tensor, "entry"]
    cell: Int32[Tensor, "entry"]
    weight: Float[Tensor, "entry"]
    number: Int32[Tensor, "entry"]

    def masses(
        self, probs: Float[Tensor, "row vocab"], num_listed: int
    ) -> Float[Tensor, "row listed"]:
        """What the rows' tokens bring to the listed cells."""
        brought = probs.view(-1).index_select(0, self.source).mul_(self.weight)
        listed = brought.new_zeros(len(probs) * num_listed)
        return listed.index_add_(0, self.cell, brought).view(len(probs), num_listed)


def entries_of(
    ids: Int[Tensor, "row listed"], weights: Float[Tensor, "w_entry"], columns: Columns
) -> Entries:
    """The entries of the listed columns of some rows."""
    flat, device = ids.flatten(), ids.device
    begins = columns.starts.index_select(0, flat)
    counts = columns.starts.index_select(0, flat + 1).sub_(begins)
    total = int(counts.sum())
    cells = torch.arange(len(flat), dtype=torch.int32, device=device)
    cell = cells.repeat_interleave(counts, output_size=total)
    shift = begins.sub_(counts.cumsum(0).sub_(counts)).to(torch.int32)
    number = torch.arange(total, dtype=torch.int32, device=device)
    number += shift.index_select(0, cell)
    rows = torch.arange(len(ids), dtype=torch.int32, device=device) * columns.num_student
    per_row = counts.view(ids.shape).sum(-1)
    source = rows.repeat_interleave(per_row, output_size=total)
    source += columns.students.index_select(0, number)
    return Entries(source, cell, weights.index_select(0, number), number)
