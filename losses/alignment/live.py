"""The common chunks of which every token counts on both sides, by their first and last tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int64

from losses.alignment.chunks import (
    Alignment,
    align,
    first_tokens,
    group_chunks,
    live_chunks,
    merge_chunks,
)
from losses.alignment.tokens import Tokens


@dataclass(frozen=True)
class LiveChunks:
    """Positions of each live chunk's first and last token on both sides."""

    student_first: Int64[np.ndarray, "chunk"]
    student_last: Int64[np.ndarray, "chunk"]
    teacher_first: Int64[np.ndarray, "chunk"]
    teacher_last: Int64[np.ndarray, "chunk"]

    def __len__(self) -> int:
        return len(self.student_last)

    @property
    def single(self) -> Bool[np.ndarray, "chunk"]:
        """True for a chunk of one token on both sides: both models read the same token there."""
        ours, theirs = self.student_first == self.student_last, self.teacher_first
        single: Bool[np.ndarray, "chunk"] = ours & (theirs == self.teacher_last)
        return single


def live_chunks_of(
    tokens: Tokens,
    scored: Bool[np.ndarray, "token"],
    teacher_ends: Int[np.ndarray, "teacher_token"],
    teacher_known: Bool[np.ndarray, "teacher_token"],
    join: Callable[[Alignment], Alignment] | None = None,
) -> LiveChunks:
    """The finest common chunks whose tokens are all scored here and known to the teacher.

    Args:
        tokens: the student's.
        scored: the student's tokens that count.
        teacher_ends: byte offset at which each teacher token ends, -1 for zero width.
        teacher_known: the teacher's tokens that it says something about.
        join: makes coarser chunks of the finest ones.

    Raises:
        ValueError: the two sides end at different bytes.

    >>> ends, seen = np.array([-1, 2, 3, 5]), np.array([False, True, True, True])
    >>> found = live_chunks_of(Tokens(ends, ends), seen, np.array([-1, 2, 4, 5]), seen)
    >>> found.student_first.tolist(), found.student_last.tolist(), found.single.tolist()
    ([1, 2], [1, 3], [True, False])
    """
    ours, theirs = (int(ends.max(initial=0)) for ends in (tokens.byte_ends, teacher_ends))
    if ours != theirs:
        raise ValueError(
            f"the teacher's tokens end at byte {theirs}, the student's at byte {ours}; "
            "expected the same document on both sides"
        )
    finest = align(tokens.byte_ends, teacher_ends)
    chunks = finest if join is None else join(finest)
    live = live_chunks(chunks, scored, teacher_known)
    kept = merge_chunks(chunks, group_chunks(live, np.ones_like(live)))
    firsts = [first_tokens(chunk) for chunk in (kept.student_chunk, kept.teacher_chunk)]
    return LiveChunks(firsts[0], kept.student_last, firsts[1], kept.teacher_last)


def known_tokens(
    num_tokens: int, positions: Int[np.ndarray, "known"]
) -> Bool[np.ndarray, "teacher_token"]:
    """True at these positions.

    >>> known_tokens(3, np.array([1])).tolist()
    [False, True, False]
    """
    known = np.zeros(num_tokens, dtype=bool)
    known[positions] = True
    return known
