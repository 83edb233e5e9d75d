"""The published chunk distribution: the mean of the log-probabilities over a chunk's tokens.

Kept for comparison with NVIDIA-NeMo/RL. The mean of logs of rows with different peaks has almost
no mass, so chunks of several tokens are nearly ignored; that is why it is not the default.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.chunk_distributions.columns import Columns, check_width
from losses.chunk_distributions.entries import entries_of
from losses.prediction import Prediction
from losses.signals import TopTokens, unpack

LEAST = -1e4
"""Stands for a log-probability of -inf, whose mean would be NaN."""


@dataclass(frozen=True)
class ChunkMeans:
    """Mean log-probabilities of the teacher tokens that a chunk's rows list.

    Args:
        ids: teacher tokens; ``num_teacher`` pads.
        logprobs: mean over the chunk's teacher rows, in nats; 0 where padded.
    """

    ids: Int64[Tensor, "chunk listed"]
    logprobs: Float[Tensor, "chunk listed"]
    num_teacher: int

    @property
    def valid(self) -> Bool[Tensor, "chunk listed"]:
        """False for padding."""
        return self.ids < self.num_teacher


@dataclass(frozen=True)
class StudentRows:
    """All student rows that predict a token of a live chunk, and their chunks."""

    positions: Int64[Tensor, "row"]
    chunk: Int64[Tensor, "row"]
    count: Float[Tensor, "chunk 1"]

    def mean(self, values: Float[Tensor, "row entry"]) -> Float[Tensor, "chunk entry"]:
        """Mean over each chunk's rows."""
        sums = values.new_zeros(len(self.count), values.shape[1]).index_add(0, self.chunk, values)
        return sums / (self.count.to(values) + 1e-10)


def chunk_means(
    signal: TopTokens, rows: ChunkRows, num_teacher: int, like: Float[Tensor, "..."]
) -> ChunkMeans:
    """A token that one of a chunk's rows lists and another does not has an even share there.

    The share is that row's tail divided by its number of unlisted tokens; with all tokens listed
    the means are exact.
    """
    chunk = rows.alignment.teacher_chunk[signal.known]
    inside = chunk >= 0
    chunk = chunk[inside]
    ids = np.concatenate([signal.realised[:, None], signal.ids], axis=-1)[inside].astype(np.int64)
    own = signal.logprob[signal.known].astype(np.float64)[inside, None]
    others = unpack(signal.others).double().numpy()[inside]
    logprobs = np.maximum(np.concatenate([own, others], axis=-1), LEAST)
    share = _even_share(signal.tail[inside], num_teacher - ids.shape[1])
    keys, inverse = np.unique(chunk[:, None] * (num_teacher + 1) + ids, return_inverse=True)
    of_key = keys // (num_teacher + 1)
    shares, sums = np.zeros(rows.num_chunks), np.zeros(len(keys))
    np.add.at(shares, chunk, share)
    np.add.at(sums, inverse.ravel(), (logprobs - share[:, None]).ravel())
    means = (sums + shares[of_key]) / rows.teacher_count[of_key]
    counts = np.bincount(of_key, minlength=rows.num_chunks)
    column = np.arange(len(keys)) - (np.cumsum(counts) - counts)[of_key]
    table = np.full((rows.num_chunks, counts.max(initial=0)), num_teacher)
    values = np.zeros(table.shape)
    table[of_key, column] = keys % (num_teacher + 1)
    values[of_key, column] = means
    device = like.device
    return ChunkMeans(
        torch.from_numpy(table).to(device), torch.from_numpy(values).to(like), num_teacher
    )


def student_rows(rows: ChunkRows, student: Prediction) -> StudentRows:
    """The student's rows whose mean is a chunk's distribution."""
    chunk = rows.alignment.student_chunk
    positions = np.flatnonzero(chunk >= 0)
    arrays = (positions - 1, chunk[positions], rows.student_count[:, None].astype(np.float64))
    return StudentRows(*(torch.from_numpy(array).to(student.device) for array in arrays))


def listed_masses(
    logprobs: Float[Tensor, "row vocab"],
    weights: Float[Tensor, "w_entry"],
    columns: Columns,
    ids: Int64[Tensor, "row listed"],
) -> Float[Tensor, "row listed"]:
    """The student's rows through W's listed columns.

    Raises:
        ValueError: W was built for a student's vocabulary of another size.
    """
    check_width(columns, logprobs.shape[-1])
    masses: Float[Tensor, "row listed"] = _ListedMasses.apply(  # type: ignore[no-untyped-call]
        logprobs, weights.to(logprobs.dtype), columns, ids
    )
    return masses


class _ListedMasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        logprobs, weights, columns, ids = inputs
        entries, probs = entries_of(ids, weights, columns), logprobs.exp()
        ctx.save_for_backward(probs)
        ctx.entries, ctx.num_weights = entries, len(weights)
        return entries.masses(probs, ids.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (probs,), entries = ctx.saved_tensors, ctx.entries
        to_entry = gradients[0].flatten().index_select(0, entries.cell)
        to_probs, to_weights = torch.zeros_like(probs), probs.new_zeros(ctx.num_weights)
        to_probs.view(-1).index_add_(0, entries.source, to_entry * entries.weight)
        brought = probs.view(-1).index_select(0, entries.source)
        to_weights.index_add_(0, entries.number, to_entry * brought)
        return to_probs * probs, to_weights, None, None


def _even_share(tail: Float32[np.ndarray, "row"], num_unlisted: int) -> Float64[np.ndarray, "row"]:
    if num_unlisted <= 0:
        return np.zeros(len(tail))
    share: Float64[np.ndarray, "row"] = tail.astype(np.float64) - np.log(num_unlisted)
    floored: Float64[np.ndarray, "row"] = np.maximum(share, LEAST)
    return floored
