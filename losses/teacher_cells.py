"""The teacher's side of the chunks: its masses on the listed tokens, the chunk and the rest."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from losses.chunk_rows import ChunkRows
from losses.projected_cells import Starts
from losses.signals import TopProbabilities, TopTokens, unpack


def teacher_cells(
    signal: TopProbabilities, rows: ChunkRows, like: Float[Tensor, "..."]
) -> Float[Tensor, "chunk cells"]:
    """Log-masses in nats that make one: first token, others, the realised chunk, the rest.

    A chunk of several teacher tokens takes its joint probability out of its first token and gets
    a cell of its own; one of a single token is that token's cell.

    Args:
        signal: the teacher's rows.
        rows: the chunks.
        like: gives the dtype and the device.
    """
    number = signal.row_of(rows.teacher_first)
    logprob = signal.logprob.astype(np.float64)
    first, after = logprob[rows.teacher_first], rows.teacher_product(logprob, rows.teacher_first)
    several = rows.teacher_count > 1
    with np.errstate(divide="ignore"):
        unfinished = np.where(several, np.log(-np.expm1(after)), 0)
    chunk = np.where(several, first + after, -np.inf)
    others = unpack(signal.others[number]).to(like)
    tail = torch.from_numpy(signal.tail[number]).to(like).unsqueeze(-1)
    left = _log1mexp(torch.from_numpy(first)).to(like).unsqueeze(-1)
    scale = left - torch.cat([others, tail], dim=-1).logsumexp(-1, keepdim=True)
    scale = torch.where(scale.isfinite(), scale, 0)  # undo rounding: the first token is exact
    begun, whole = (torch.from_numpy(a).to(like)[:, None] for a in (first + unfinished, chunk))
    return torch.cat([begun, others + scale, whole, tail + scale], dim=-1)


def chunk_starts(
    signal: TopTokens,
    rows: ChunkRows,
    student_ids: Int64[np.ndarray, "student_token"],
    device: torch.device,
) -> Starts:
    """Which teacher tokens each chunk's first row lists, and how the chunk starts."""
    number = signal.row_of(rows.teacher_first)
    ids = np.concatenate([signal.realised[number, None], signal.ids[number]], axis=-1)
    merged = (rows.teacher_count == 1) & ~rows.single
    arrays = (ids, student_ids[rows.student_first], rows.single, merged)
    return Starts(*(torch.from_numpy(array).to(device) for array in arrays))


def _log1mexp(x: Float64[Tensor, "chunk"]) -> Float64[Tensor, "chunk"]:
    return torch.log(-torch.expm1(x.clamp(max=0)))
