"""The student's mass on the teacher tokens that the teacher listed, through W.

A row's cells are the listed teacher tokens, the realised chunk and everything else, and the
student's masses on them sum to one. Only the listed columns of W are read; nothing has the size
of the teacher's vocabulary. Work goes by blocks of rows that stay in a CPU's cache. W's weights
lie on a grid on which sums are exact, so that a row of W that is listed whole leaves nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from losses.divergence import ELEMENTS_IN_CACHE
from losses.projection_columns import Columns


@dataclass(frozen=True)
class Starts:
    """How each chunk starts, for the rows at hand.

    Args:
        ids: listed teacher tokens, the realised one first; the spare id pads.
        realised: the chunk's first student token.
        single: one token on both sides, so the chunk needs no cell of its own.
        merged: one teacher token, so the chunk's cell is that token's.
    """

    ids: Int[Tensor, "row listed"]
    realised: Int64[Tensor, "row"]
    single: Bool[Tensor, "row"]
    merged: Bool[Tensor, "row"]

    @property
    def fields(self) -> tuple[Tensor, ...]:
        """All fields, to be cut to the rows at hand."""
        return self.ids, self.realised, self.single, self.merged

    @classmethod
    def plain(cls, ids: Int[Tensor, "row listed"]) -> "Starts":
        """Rows that realise nothing: all of their mass goes through W."""
        nothing = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        return cls(ids, nothing, torch.ones_like(nothing).bool(), nothing.bool())


def projected_cells(
    logprobs: Float[Tensor, "row vocab"],
    after_first: Float[Tensor, "row"],
    weights: Float[Tensor, "entry"],
    columns: Columns,
    starts: Starts,
) -> Float[Tensor, "row cells"]:
    """The student's masses: listed teacher tokens, the realised chunk, everything else.

    The chunk takes its joint probability out of its first token; what is left of that token, and
    all other tokens, go through W to the listed teacher tokens or past them.

    Args:
        logprobs: the student's rows that predict the chunks' first tokens, in nats.
        after_first: log-probability that the student goes on to finish the chunk; 0 for one
            student token.
        weights: W's entries, in the order of ``columns``.
        columns: which entries there are.
        starts: how the chunks start.

    Raises:
        ValueError: W was built for a student's vocabulary of another size.
    """
    if logprobs.shape[-1] != columns.num_student:
        raise ValueError(
            f"the projection W has {columns.num_student} rows, the student predicts "
            f"{logprobs.shape[-1]} tokens; expected a W built from the student's vocabulary"
        )
    cells: Float[Tensor, "row cells"] = _ProjectedCells.apply(  # type: ignore[no-untyped-call]
        logprobs, after_first, weights.to(logprobs.dtype), columns, starts
    )
    return cells


class _ProjectedCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        logprobs, after_first, weights, columns, starts = inputs
        ctx.save_for_backward(logprobs, after_first)
        ctx.starts, ctx.num_entries = starts, len(weights)
        ctx.entries = []
        cells: Tensor = logprobs.new_empty(len(logprobs), starts.ids.shape[1] + 2)
        for rows in _blocks(logprobs):
            entries = _entries(starts.ids[rows], weights, columns)
            block = _Block(logprobs[rows], after_first[rows], starts, rows)
            cells[rows] = block.cells(entries, starts.ids.shape[1])
            if any(ctx.needs_input_grad):
                ctx.entries.append(entries)
        return cells

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logprobs, after_first = ctx.saved_tensors
        to_logprobs, to_after = torch.empty_like(logprobs), torch.empty_like(after_first)
        to_weights = logprobs.new_zeros(ctx.num_entries) if ctx.needs_input_grad[2] else None
        for rows, entries in zip(_blocks(logprobs), ctx.entries, strict=True):
            block = _Block(logprobs[rows], after_first[rows], ctx.starts, rows)
            to_cells = gradients[0][rows]
            if to_weights is not None:
                block.add_to_weights(to_weights, to_cells, entries)
            to_logprobs[rows], to_after[rows] = block.gradients(to_cells, entries)
        return to_logprobs, to_after, to_weights, None, None


@dataclass(frozen=True)
class _Entries:
    """The entries of the listed columns: from which student token of the block to which cell."""

    source: Int32[Tensor, "entry"]
    cell: Int32[Tensor, "entry"]
    weight: Float[Tensor, "entry"]
    number: Int32[Tensor, "entry"]


def _entries(
    ids: Int[Tensor, "row listed"], weights: Float[Tensor, "w_entry"], columns: Columns
) -> _Entries:
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
    return _Entries(source, cell, weights.index_select(0, number), number)


class _Block:
    """A few rows of the student's distributions with the chunks taken out."""

    def __init__(
        self,
        logprobs: Float[Tensor, "row vocab"],
        after_first: Float[Tensor, "row"],
        starts: Starts,
        rows: slice,
    ) -> None:
        self.realised = starts.realised[rows].unsqueeze(-1)
        self.single, self.merged = starts.single[rows], starts.merged[rows]
        self.probs = logprobs.exp()
        self.first = self.probs.gather(-1, self.realised).squeeze(-1)
        # single chunks leave their first token whole
        self.finished = torch.where(self.single, 0, after_first.exp())
        self.unfinished = torch.where(self.single, 1, -torch.expm1(after_first))
        self.probs.scatter_(-1, self.realised, (self.first * self.unfinished).unsqueeze(-1))

    def cells(self, entries: _Entries, num_listed: int) -> Float[Tensor, "row cells"]:
        mass = self.probs.view(-1).index_select(0, entries.source).mul_(entries.weight)
        listed = mass.new_zeros(len(self.probs) * num_listed)
        listed = listed.index_add_(0, entries.cell, mass).view(-1, num_listed)
        chunk = self.first * self.finished
        listed[:, 0] += torch.where(self.merged, chunk, 0)
        chunk = torch.where(self.merged, 0, chunk)
        left = torch.ones_like(self.probs)
        left.view(-1).index_add_(0, entries.source, entries.weight, alpha=-1)
        rest = torch.linalg.vecdot(self.probs, left)
        return torch.cat([listed, chunk.unsqueeze(-1), rest.unsqueeze(-1)], dim=-1)

    def gradients(
        self, to_cells: Float[Tensor, "row cells"], entries: _Entries
    ) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row"]]:
        """To the log-probabilities and to ``after_first``."""
        to_chunk = torch.where(self.merged, to_cells[:, 0], to_cells[:, -2])
        to_rest = to_cells[:, -1:]
        to_probs = to_rest.expand_as(self.probs).contiguous()
        to_listed = (to_cells[:, :-2] - to_rest).flatten()
        to_entry = to_listed.index_select(0, entries.cell).mul_(entries.weight)
        to_probs.view(-1).index_add_(0, entries.source, to_entry)
        to_first = to_probs.gather(-1, self.realised).squeeze(-1)
        to_after = self.first * self.finished * (to_chunk - to_first)
        to_after = torch.where(self.single, 0, to_after)
        to_first = self.first * (to_first * self.unfinished + to_chunk * self.finished)
        to_probs.mul_(self.probs).scatter_(-1, self.realised, to_first.unsqueeze(-1))
        return to_probs, to_after

    def add_to_weights(
        self,
        to_weights: Float[Tensor, "w_entry"],
        to_cells: Float[Tensor, "row cells"],
        entries: _Entries,
    ) -> None:
        """What an entry takes to its cell is missing in the rest."""
        to_listed = (to_cells[:, :-2] - to_cells[:, -1:]).flatten()
        mass = self.probs.view(-1).index_select(0, entries.source)
        gradient = to_listed.index_select(0, entries.cell).mul_(mass)
        to_weights.index_add_(0, entries.number, gradient)


def _blocks(table: Float[Tensor, "row vocab"]) -> list[slice]:
    size = max(1, ELEMENTS_IN_CACHE // table.shape[-1])
    size = size if table.device.type == "cpu" else max(1, len(table))
    return [slice(start, start + size) for start in range(0, len(table), size)]
