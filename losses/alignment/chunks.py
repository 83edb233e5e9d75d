"""The finest chunks of bytes that two tokenizers both cut out, in linear time.

Absolute byte ends are compared, so nothing can drift: a border belongs to both sides or to none.
A chunk may end inside a character, since both sides may cut one at the same byte. Coarser chunks
are made out of these, in ``losses.alignment.coarser``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from losses.alignment.borders import common_chunks


class Alignment(NamedTuple):
    """Which chunk each token belongs to; both sides of a chunk cover the same bytes.

    Args:
        student_chunk: chunk of each student token, -1 outside all chunks; never falls otherwise.
        teacher_chunk: the same for the teacher's tokens.
        student_last: index of each chunk's last student token.
        teacher_last: index of each chunk's last teacher token.
    """

    student_chunk: Int64[np.ndarray, "student_token"]
    teacher_chunk: Int64[np.ndarray, "teacher_token"]
    student_last: Int64[np.ndarray, "chunk"]
    teacher_last: Int64[np.ndarray, "chunk"]

    @property
    def num_chunks(self) -> int:
        """Number of chunks; they are numbered from 0 in the order of the bytes."""
        return len(self.student_last)


def align(
    student_ends: Int[np.ndarray, "student_token"], teacher_ends: Int[np.ndarray, "teacher_token"]
) -> Alignment:
    """Cut the bytes wherever a token of both sides ends.

    Tokens of zero width and tokens after the last common border are outside all chunks.

    Args:
        student_ends: byte offset at which each token ends, -1 for a token of zero width.
        teacher_ends: the same for the teacher, on the same bytes.

    Source: greedy alignment of Minixhofer et al. 2025, arXiv:2503.20083, section 3.

    >>> found = align(np.array([-1, 2, 5, 6]), np.array([1, 2, 3, 5]))
    >>> found.student_chunk.tolist(), found.teacher_chunk.tolist()
    ([-1, 0, 1, -1], [0, 0, 1, 1])
    >>> found.student_last.tolist(), found.teacher_last.tolist()
    ([1, 2], [1, 3])
    """
    [found] = align_batch([student_ends], [teacher_ends])
    return found


def align_batch(
    student_ends: Sequence[Int[np.ndarray, "_"]], teacher_ends: Sequence[Int[np.ndarray, "_"]]
) -> list[Alignment]:
    """``align`` for each document: the fastest way for many short ones, in a few numpy calls.

    Args:
        student_ends: one array a document, as in ``align``.
        teacher_ends: the teacher's, of the same documents in the same order.

    Raises:
        ValueError: the two sides have different numbers of documents.

    >>> found = align_batch([np.array([2, 3]), np.array([4])], [np.array([2, 3]), np.array([1, 4])])
    >>> [(one.student_chunk.tolist(), one.teacher_chunk.tolist()) for one in found]
    [([0, 1], [0, 1]), ([0], [0, 0])]
    """
    if len(student_ends) != len(teacher_ends):
        raise ValueError(
            f"align_batch got {len(student_ends)} documents of the student and "
            f"{len(teacher_ends)} of the teacher; pass both sides of the same documents"
        )
    chunks, lasts = common_chunks([*student_ends, *teacher_ends])
    count = len(student_ends)
    return list(map(Alignment, chunks[:count], chunks[count:], lasts[:count], lasts[count:]))


def merge_chunks(alignment: Alignment, group: Int64[np.ndarray, "chunk"]) -> Alignment:
    """The same tokens in larger chunks; a chunk whose group is -1 is left out.

    Args:
        alignment: the chunks to join.
        group: new chunk of each chunk: 0, 1, 2 … without gaps, never falling, or -1.

    >>> fine = align(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4]))
    >>> merged = merge_chunks(fine, np.array([-1, 0, 0, 1]))
    >>> merged.student_chunk.tolist(), merged.student_last.tolist()
    ([-1, 0, 0, 1], [2, 3])
    """
    kept = np.flatnonzero(group >= 0)
    last = np.zeros(group.max(initial=-1) + 1, dtype=np.int64)
    last[group[kept]] = kept  # of several, the last one stays
    table = np.append(group, -1)  # the entry at -1 keeps outside tokens outside
    return Alignment(
        student_chunk=table[alignment.student_chunk],
        teacher_chunk=table[alignment.teacher_chunk],
        student_last=alignment.student_last[last],
        teacher_last=alignment.teacher_last[last],
    )


def live_chunks(
    alignment: Alignment,
    student_known: Bool[np.ndarray, "student_token"],
    teacher_known: Bool[np.ndarray, "teacher_token"],
) -> Bool[np.ndarray, "chunk"]:
    """True for a chunk of which every token of both sides is known (scored, predicted)."""
    live = np.ones(alignment.num_chunks, dtype=bool)
    live[alignment.student_chunk[~student_known & (alignment.student_chunk >= 0)]] = False
    live[alignment.teacher_chunk[~teacher_known & (alignment.teacher_chunk >= 0)]] = False
    return live


def group_chunks(
    live: Bool[np.ndarray, "chunk"], closes: Bool[np.ndarray, "chunk"]
) -> Int64[np.ndarray, "chunk"]:
    """Join live neighbours up to and including one that closes; a dead chunk (-1) parts groups.

    >>> live = np.array([False, True, True, True, False, True])
    >>> group_chunks(live, closes=np.array([True, False, True, False, True, False])).tolist()
    [-1, 0, 0, 1, -1, 2]
    """
    last = live & (closes | ~np.append(live[1:], False))
    return np.where(live, np.cumsum(last) - last, -1)


def first_tokens(chunk: Int64[np.ndarray, "token"]) -> Int64[np.ndarray, "chunk"]:
    """Index of each chunk's first token, of one side's chunk of each token.

    >>> first_tokens(np.array([-1, 0, 0, -1, 1])).tolist()
    [1, 4]
    """
    inside = np.flatnonzero(chunk >= 0)
    return inside[np.diff(chunk[inside], prepend=-1) > 0]
