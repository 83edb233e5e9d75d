"""The teacher's side of the chunks: its masses on the listed tokens, the chunk and the rest."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.signals import TopProbabilities, TopTokens, unpack


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

    @classmethod
    def plain(cls, ids: Int[Tensor, "row listed"]) -> "Starts":
        """Rows that realise nothing: all of their mass goes through W."""
        nothing = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        return cls(ids, nothing, torch.ones_like(nothing).bool(), nothing.bool())


def chunk_starts(
    signal: TopTokens,
    rows: ChunkRows,
    student_ids: Int64[np.ndarray, "student_token"],
    device: torch.device,
    chunks: slice,
) -> Starts:
    """Which teacher tokens the chunks' first rows list, and how the chunks start."""
    number = signal.row_of(rows.teacher_first[chunks])
    ids = np.concatenate([signal.realised[number, None], signal.ids[number]], axis=-1)
    single = rows.single[chunks]
    merged = (rows.teacher_count[chunks] == 1) & ~single
    arrays = (ids, student_ids[rows.student_first[chunks]], single, merged)
    return Starts(*(torch.from_numpy(array).to(device) for array in arrays))


class TeacherCells:
    """Log-masses in nats that make one: first token, others, the realised chunk, the rest.

    A chunk of several teacher tokens takes its joint probability out of its first token and gets
    a cell of its own; one of a single token is that token's cell.

    Args:
        signal: the teacher's rows.
        rows: the chunks.
    """

    def __init__(self, signal: TopProbabilities, rows: ChunkRows) -> None:
        self._signal = signal
        self._number = signal.row_of(rows.teacher_first)
        logprob = signal.logprob.astype(np.float64)
        after = rows.teacher_product(logprob, rows.teacher_first)
        several = rows.teacher_count > 1
        with np.errstate(divide="ignore"):
            unfinished = np.where(several, np.log(-np.expm1(after)), 0)
        self._first = logprob[rows.teacher_first]
        self._begun = self._first + unfinished
        self._whole = np.where(several, self._first + after, -np.inf)

    def read(self, chunks: slice, like: Float[Tensor, "..."]) -> Float[Tensor, "chunk cells"]:
        """The cells of some chunks, in the dtype and on the device of ``like``."""
        number = self._number[chunks]
        others = unpack(self._signal.others[number]).to(like)
        tail = torch.from_numpy(self._signal.tail[number]).to(like).unsqueeze(-1)
        left = _log1mexp(torch.from_numpy(self._first[chunks])).to(like).unsqueeze(-1)
        scale = left - torch.logaddexp(others.logsumexp(-1, keepdim=True), tail)
        scale = torch.where(scale.isfinite(), scale, 0)  # undo rounding: the first token is exact
        begun, whole = (
            torch.from_numpy(array[chunks]).to(like)[:, None]
            for array in (self._begun, self._whole)
        )
        return torch.cat([begun, others.add_(scale), whole, tail + scale], dim=-1)


def _log1mexp(x: Float64[Tensor, "chunk"]) -> Float64[Tensor, "chunk"]:
    return torch.log(-torch.expm1(x.clamp(max=0)))
