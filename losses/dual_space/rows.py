"""Which rows of the two models belong together: one to one, or by what both have read."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from losses.alignment.live import live_chunks_of
from losses.alignment.tokens import Tokens
from losses.dual_space.states import predicted, starts
from losses.signals import HiddenStates


class PairedRows(NamedTuple):
    """Rows that predict the same token after the same bytes.

    Args:
        positions: the student's rows, by position.
        states: the teacher's, by their number among the states.
    """

    positions: Int64[np.ndarray, "pair"]
    states: Int64[np.ndarray, "pair"]


def paired_rows(
    tokens: Tokens, scored: Bool[np.ndarray, "token"], states: HiddenStates
) -> PairedRows:
    """Exact token alignment, by bytes: the common chunks of one token on both sides.

    Source: DSKDv2's exact token alignment, which compares pieces of text, songmzhang/DSKDv2.
    """
    chunks = live_chunks_of(tokens, scored, states.byte_ends, predicted(states))
    alone = chunks.single
    teacher = np.searchsorted(states.positions, chunks.teacher_first[alone] - 1)
    return PairedRows(chunks.student_first[alone] - 1, teacher.astype(np.int64))


class SeenRows(NamedTuple):
    """Which rows of the other model have read no more than a row itself.

    Args:
        by_student: of the teacher's rows, for each of the student's.
        by_teacher: of the student's rows, for each of the teacher's.
    """

    by_student: Bool[np.ndarray, "student_row teacher_row"]
    by_teacher: Bool[np.ndarray, "teacher_row student_row"]

    @property
    def everything(self) -> "SeenRows":
        """The same without the restriction: also rows that have read the answer."""
        return SeenRows(*(np.ones_like(seen) for seen in self))


def seen_rows(
    byte_ends: Int64[np.ndarray, "token"],
    positions: Int64[np.ndarray, "student_row"],
    states: HiddenStates,
) -> SeenRows:
    """Compare the bytes read before each row's prediction.

    Args:
        byte_ends: of the student's tokens.
        positions: the student's rows.
        states: the teacher's.
    """
    ours = starts(byte_ends, positions)
    theirs = starts(_wide(states.byte_ends), _wide(states.positions))
    return SeenRows(theirs <= ours[:, None], ours <= theirs[:, None])


def _wide(values: Int[np.ndarray, "_"]) -> Int64[np.ndarray, "_"]:
    return values.astype(np.int64)
