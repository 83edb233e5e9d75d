"""A document's chunks on both sides, compared block by block.

Rows are read in blocks that stay in a CPU's cache, and the gradient is made with the value, so
that nothing but the gradient itself has the size of the table. It goes to the table of
log-probabilities at once: first rows through their cells, all other rows of a chunk through the
probability that the chunk is finished.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.chunk_distributions.columns import Columns, check_width
from losses.chunk_distributions.student_cells import StudentBlock
from losses.chunk_distributions.teacher_cells import TeacherCells, chunk_starts
from losses.chunk_distributions.top_tokens import tempered
from losses.prediction import Prediction
from losses.signals import TopTokens

ELEMENTS_IN_BLOCK = 2**19
"""Entries of the table worked on at once on a CPU: few enough for its cache."""

Compare: TypeAlias = Callable[[StudentBlock], Tensor]
"""A block's loss, one value a chunk (nats), made of its ``cells`` and ``masses``."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: ``signal`` and ``rows`` of one document, through ``columns``."""

    signal: TopTokens
    rows: ChunkRows
    columns: Columns
    temperature: float

    def total(
        self, student: Prediction, weights: Float[Tensor, "entry"], compare: Compare
    ) -> Float[Tensor, ""]:
        """The loss summed over all chunks.

        Args:
            student: the student's prediction.
            weights: W's entries, in the order of ``columns``.
            compare: the loss of a block.

        Raises:
            ValueError: W was built for a student's vocabulary of another size.
        """
        check_width(self.columns, student.head.num_valid)
        teacher = TeacherCells(self.signal, self.rows)
        parts = student.parts(self.rows.student_count)
        sums = [self._part(student, weights, compare, teacher, part) for part in parts]
        return torch.stack(sums).sum() if sums else student.hidden.sum() * 0

    def _part(
        self,
        student: Prediction,
        weights: Float[Tensor, "entry"],
        compare: Compare,
        teacher: TeacherCells,
        chunks: slice,
    ) -> Float[Tensor, ""]:
        """Of consecutive chunks that are read together."""
        ends = np.cumsum(self.rows.student_count)
        inside = np.flatnonzero(self.rows.alignment.student_chunk >= 0)
        inside = inside[_before(ends, chunks.start) : _before(ends, chunks.stop)]
        positions = torch.from_numpy(inside).to(student.device)
        own = torch.from_numpy(student.tokens.ids[inside]).to(student.device)
        chunk = torch.from_numpy(self.rows.alignment.student_chunk[inside] - chunks.start)
        chunk = chunk.to(student.device)
        first = chunk.diff(prepend=chunk.new_full((1,), -1)) > 0

        def block(
            probs: Float[Tensor, "row vocab"], after: Float[Tensor, "row"], rows: slice
        ) -> StudentBlock:
            here = slice(chunks.start + rows.start, chunks.start + rows.stop)
            starts = chunk_starts(self.signal, self.rows, student.tokens.ids, probs.device, here)
            of_teacher = teacher.read(here, probs)
            return StudentBlock(
                probs, after, weights.detach().to(probs), self.columns, starts, of_teacher
            )

        def read(table: Float[Tensor, "any vocab"], rows: Int64[Tensor, "row"]) -> Tensor:
            table = tempered(table, self.temperature)
            where = _Where(rows[first], rows[~first], own[~first], chunk[~first])
            value: Tensor = _Total.apply(  # type: ignore[no-untyped-call]
                table, weights, where, block, compare
            )
            return value

        return student.map_table(read, positions - 1)


@dataclass(frozen=True)
class _Where:
    """Rows of the table: each chunk's first; all others with their tokens and their chunks."""

    first: Int64[Tensor, "chunk"]
    inner: Int64[Tensor, "inner"]
    ids: Int64[Tensor, "inner"]
    chunk: Int64[Tensor, "inner"]

    def after_first(self, table: Float[Tensor, "any vocab"]) -> Float[Tensor, "chunk"]:
        """Log-probability (nats) that each chunk is finished as it began; 0 for one token."""
        sums = table.new_zeros(len(self.first))
        return sums.index_add_(0, self.chunk, table[self.inner, self.ids])


class _Total(torch.autograd.Function):
    """The summed loss; its gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        table, weights, where, make_block, compare = inputs
        table = table.detach()  # the blocks' own graphs must end here
        wanted = any(ctx.needs_input_grad)
        learned = ctx.needs_input_grad[1]
        to_weights = torch.zeros_like(weights, dtype=table.dtype) if learned else None
        to_table, to_after = _empty_gradient(table, where) if wanted else None, []
        after, sums = where.after_first(table), [table.new_zeros(())]
        for rows in _blocks(len(where.first), table):
            first = where.first[rows]
            with torch.enable_grad(), _own_graph():
                block = make_block(table.index_select(0, first).exp_(), after[rows], rows)
                total = compare(block).sum()
            sums.append(total.detach())
            if to_table is not None:
                with _own_graph():
                    to_rows, to_block = block.gradients(total, to_weights)
                to_table.index_copy_(0, first, to_rows)
                to_after.append(to_block)
        if to_table is not None and to_after:
            to_table[where.inner, where.ids] = torch.cat(to_after)[where.chunk]
        ctx.save_for_backward(to_table, to_weights)
        ctx.weights_dtype = weights.dtype
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_table, to_weights = ctx.saved_tensors
        scaled = to_table * gradients[0] if ctx.needs_input_grad[0] else None
        if to_weights is not None:
            to_weights = (to_weights * gradients[0]).to(ctx.weights_dtype)
        return scaled, to_weights, None, None, None


def _own_graph() -> torch.autograd.graph.saved_tensors_hooks:
    """Keep gradient checkpointing around us from recomputing the blocks' small graphs."""
    return torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)


def _empty_gradient(table: Float[Tensor, "any vocab"], where: _Where) -> Float[Tensor, "any vocab"]:
    """Zero in all rows but the first ones, which are written whole."""
    gradient = torch.empty_like(table)
    others = torch.ones(len(table), dtype=torch.bool, device=table.device)
    others[where.first] = False
    gradient[others] = 0
    return gradient


def _blocks(num_rows: int, table: Float[Tensor, "any vocab"]) -> list[slice]:
    """Rows that stay in a CPU's cache; all at once on other devices."""
    size = max(1, ELEMENTS_IN_BLOCK // table.shape[-1])
    size = size if table.device.type == "cpu" else max(1, num_rows)
    return [slice(i, min(i + size, num_rows)) for i in range(0, num_rows, size)]


def _before(ends: Int64[np.ndarray, "chunk"], chunk: int) -> int:
    """Student tokens in the chunks before this one."""
    return int(ends[chunk - 1]) if chunk else 0
