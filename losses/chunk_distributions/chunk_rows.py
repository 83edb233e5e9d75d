"""Where the common chunks of two tokenizers begin, and how likely the rest of each one is.

Only live chunks count: every token of both sides is scored and has a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from losses.alignment.chunks import Alignment, align, group_chunks, live_chunks, merge_chunks
from losses.alignment.tokens import Tokens
from losses.chunk_distributions.top_tokens import realised_logprobs
from losses.prediction import Prediction
from losses.signals import TopProbabilities


@dataclass(frozen=True)
class ChunkRows:
    """The live chunks.

    Args:
        alignment: live chunks only; both sides' tokens outside them are -1.
        student_first: position of each chunk's first student token.
        teacher_first: position of each chunk's first teacher token.
        student_count: student tokens in each chunk.
        teacher_count: teacher tokens in each chunk.
    """

    alignment: Alignment
    student_first: Int64[np.ndarray, "chunk"]
    teacher_first: Int64[np.ndarray, "chunk"]
    student_count: Int64[np.ndarray, "chunk"]
    teacher_count: Int64[np.ndarray, "chunk"]

    @property
    def num_chunks(self) -> int:
        """Number of live chunks."""
        return self.alignment.num_chunks

    @property
    def single(self) -> Bool[np.ndarray, "chunk"]:
        """True for a chunk of one token on both sides."""
        single: Bool[np.ndarray, "chunk"] = (self.student_count == 1) & (self.teacher_count == 1)
        return single

    def teacher_product(
        self, logprob: Float[np.ndarray, "teacher_token"], without: Int64[np.ndarray, "chunk"]
    ) -> Float64[np.ndarray, "chunk"]:
        """Each chunk's summed log-probabilities (nats), but for one token at these positions."""
        chunk = self.alignment.teacher_chunk.copy()
        chunk[without] = -1
        inside = chunk >= 0
        sums = np.zeros(self.num_chunks)
        np.add.at(sums, chunk[inside], logprob[inside])
        return sums

    def student_product(
        self,
        student: Prediction,
        logprobs: Float[Tensor, "scored"],
        without: Int64[np.ndarray, "chunk"],
    ) -> Float[Tensor, "chunk"]:
        """The same for the student's scored tokens, with a gradient."""
        marked = self.alignment.student_chunk.copy()
        marked[without] = -1
        chunk = torch.from_numpy(marked).to(student.device)[student.scored_positions]
        inside = chunk >= 0
        sums = logprobs.new_zeros(self.num_chunks)
        return sums.index_add(0, chunk[inside], logprobs[inside])

    def student_after_first(
        self, student: Prediction, temperature: float
    ) -> Float[Tensor, "chunk"]:
        """Log-probability (nats) that the student finishes a chunk as it began; 0 for one token."""
        own = realised_logprobs(student, temperature)
        return self.student_product(student, own, self.student_first)


def chunk_rows(
    tokens: Tokens,
    scored: Bool[np.ndarray, "token"],
    signal: TopProbabilities,
    join: Callable[[Alignment], Alignment] | None = None,
) -> ChunkRows:
    """The finest common chunks of which every token is scored on both sides.

    Args:
        tokens: the student's.
        scored: the student's tokens that count.
        signal: the teacher's rows.
        join: makes coarser chunks of the finest ones.

    Raises:
        ValueError: the two sides end at different bytes.
    """
    ours, theirs = (int(ends.max(initial=0)) for ends in (tokens.byte_ends, signal.byte_ends))
    if ours != theirs:
        raise ValueError(
            f"the teacher's tokens end at byte {theirs}, the student's at byte {ours}; "
            "expected the same document on both sides"
        )
    finest = align(tokens.byte_ends, signal.byte_ends)
    chunks = finest if join is None else join(finest)
    live = live_chunks(chunks, scored, np.isfinite(signal.logprob))
    return _rows(merge_chunks(chunks, group_chunks(live, np.ones_like(live))))


def position_rows(scored: Bool[np.ndarray, "token"], signal: TopProbabilities) -> ChunkRows:
    """The i-th scored token of one side with the i-th of the other, whatever they say (ULD)."""
    student, teacher = np.flatnonzero(scored), np.flatnonzero(signal.known)
    count = min(len(student), len(teacher))
    chunks = [np.full(len(side), -1, dtype=np.int64) for side in (scored, signal.known)]
    for chunk, positions in zip(chunks, (student, teacher), strict=True):
        chunk[positions[:count]] = np.arange(count)
    return _rows(Alignment(chunks[0], chunks[1], student[:count], teacher[:count]))


def _rows(alignment: Alignment) -> ChunkRows:
    sides = (alignment.student_chunk, alignment.teacher_chunk)
    firsts = [_first(chunk) for chunk in sides]
    counts = [np.bincount(c[c >= 0], minlength=alignment.num_chunks) for c in sides]
    return ChunkRows(alignment, firsts[0], firsts[1], counts[0], counts[1])


def _first(chunk: Int64[np.ndarray, "token"]) -> Int64[np.ndarray, "chunk"]:
    inside = np.flatnonzero(chunk >= 0)
    return inside[np.diff(chunk[inside], prepend=-1) > 0]
