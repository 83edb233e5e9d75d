"""Ensembles in chunks: the coins that ``alm`` tosses, on borders common to everybody.

Each teacher says how likely the bytes of a chunk are; the ensemble's chance is the mean of these
coins. What comes out are the likelihoods of a teacher whose tokens are the chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64

from losses.alignment.chunks import Alignment, align, group_chunks, live_chunks, merge_chunks
from losses.alignment.coarser import space_chunks
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.binarised import log1mexp
from losses.ensembles.ensemble import Ensemble, Said, weights_of
from losses.methods.alm import Alm, refuse_other_document
from losses.mixture.targets import Mean, combine_logprobs
from losses.signals import Signal, TokenLikelihoods, expect


@dataclass(frozen=True)
class ChunkEnsemble(Ensemble):
    """The mean of the members' chunk likelihoods.

    Chunks are cut wherever the student and every member cut; they are joined by
    ``merge_threshold`` as a single teacher's are, by the mean of the border probabilities. Where
    a member is masked it leaves its weight to the others; chunks are not joined over such a change.

    Args:
        alm: the method of all members.
        mean: of the coins "these bytes, or others": arithmetic or geometric.

    Raises:
        ValueError: an option of ``alm`` has no meaning for several teachers.
    """

    alm: Alm
    mean: Mean

    def __post_init__(self) -> None:
        if self.alm.chunks == "unbiased":
            raise ValueError(
                'option "chunks" = unbiased: a bias file belongs to one teacher, an ensemble has '
                "several; use finest or space"
            )
        if self.alm.weighting != "chunk_count":
            raise ValueError(
                f'option "weighting" = {self.alm.weighting} counts the tokens of one teacher, an '
                "ensemble has several; use chunk_count"
            )

    @property
    def method(self) -> Alm:
        """``alm`` on the chunks as they come: they are joined already."""
        border = self.alm.border if self.alm.debias else "words"
        return replace(self.alm, chunks="finest", merge_threshold=None, border=border)

    def check(self, pair: Pair) -> None:
        self.alm.check(pair)

    def combined(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        said: Sequence[Said],
        student: Vocabulary,
    ) -> Signal:
        sides = [expect(one.signal, TokenLikelihoods) for one in said]
        chunks = common_to_all([self._chunks(tokens, side, student) for side in sides])
        present = _present(chunks, scored, sides)
        borders = [s.border_logprob[a.teacher_last] for s, a in zip(sides, chunks, strict=True)]
        changes = np.append((present[:, 1:] != present[:, :-1]).any(0), True)
        closes = self.alm.closes(self._mean_of(borders, said, present))
        speaks = np.asarray(present.any(0))
        group = group_chunks(speaks, closes | changes[: len(speaks)])
        joined = [merge_chunks(alignment, group) for alignment in chunks]
        values = [self.alm.of_teacher(a, s) for a, s in zip(joined, sides, strict=True)]
        ends = _ends_of_groups(group)
        mixed = self._mean_of(values, said, present[:, ends[group[ends] >= 0]])
        return _as_tokens(tokens, chunks[0].student_last[ends], group[ends] >= 0, mixed)

    def _chunks(self, tokens: Tokens, side: TokenLikelihoods, student: Vocabulary) -> Alignment:
        refuse_other_document(tokens, side)
        finest = align(tokens.byte_ends, side.byte_ends)
        return space_chunks(finest, tokens, student) if self.alm.chunks == "space" else finest

    def _mean_of(
        self,
        values: Sequence[Float[np.ndarray, "chunk"]],
        said: Sequence[Said],
        present: Bool[np.ndarray, "member chunk"],
    ) -> Float64[np.ndarray, "chunk"]:
        """The ensemble's log-probability of each chunk; NaN where no member is present."""
        known = np.asarray(present.any(0))
        there = torch.from_numpy(present[:, known])
        heads = torch.from_numpy(np.stack(values)[:, known].astype(np.float64)).clamp(max=0)
        coins = torch.stack([heads, log1mexp(heads.flatten()).view_as(heads)], dim=-1)
        mixed = np.full(len(known), np.nan)
        mixed[known] = combine_logprobs(coins, weights_of(said), there, self.mean)[:, 0].numpy()
        return mixed


def common_to_all(alignments: Sequence[Alignment]) -> list[Alignment]:
    """Alignments of one student with several teachers, cut only where all of them cut.

    >>> ones = np.arange(1, 5)
    >>> found = common_to_all([align(ones, np.array([1, 2, 4])), align(ones, np.array([2, 3, 4]))])
    >>> [alignment.student_last.tolist() for alignment in found], found[0].student_chunk.tolist()
    ([[1, 3], [1, 3]], [0, 0, 1, 1])
    """
    lasts: Int64[np.ndarray, "chunk"]
    lasts = reduce(np.intersect1d, [alignment.student_last for alignment in alignments])
    return [_cut_at(alignment, lasts) for alignment in alignments]


def _cut_at(alignment: Alignment, lasts: Int64[np.ndarray, "chunk"]) -> Alignment:
    """Its chunks joined up to these last student tokens; what follows the last one is left out."""
    closes = np.isin(alignment.student_last, lasts)
    inside = np.arange(alignment.num_chunks) < np.flatnonzero(closes).max(initial=-1) + 1
    return merge_chunks(alignment, group_chunks(inside, closes))


def _present(
    chunks: Sequence[Alignment],
    scored: Bool[np.ndarray, "token"],
    sides: Sequence[TokenLikelihoods],
) -> Bool[np.ndarray, "member chunk"]:
    pairs = zip(chunks, sides, strict=True)
    return np.stack([live_chunks(a, scored, np.isfinite(side.logprob)) for a, side in pairs])


def _ends_of_groups(group: Int64[np.ndarray, "chunk"]) -> Int64[np.ndarray, "joined"]:
    """The last chunk of each group, and every chunk without one."""
    changes = np.append(group[1:] != group[:-1], True)[: len(group)]
    return np.flatnonzero((group < 0) | changes)


def _as_tokens(
    tokens: Tokens,
    lasts: Int64[np.ndarray, "joined"],
    known: Bool[np.ndarray, "joined"],
    mixed: Float64[np.ndarray, "known"],
) -> TokenLikelihoods:
    """The chunks as a teacher's tokens; what the ensemble says nothing about is NaN."""
    ends = tokens.byte_ends[lasts]
    logprob = np.full(len(lasts), np.nan, dtype=np.float32)
    logprob[known] = mixed
    borders = np.where(np.isnan(logprob), np.float32(np.nan), np.float32(0))
    return TokenLikelihoods(ends.astype(np.int32), logprob, borders)
