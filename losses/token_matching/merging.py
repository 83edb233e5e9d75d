"""Positions that CDM compares: tokens of both sides joined along a path."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from losses.token_matching.time_warping import Path


@dataclass(frozen=True)
class Members:
    """Which tokens are averaged for each merged position, and how much each one counts.

    Args:
        position: the merged position of each entry, never falling.
        token: the entry's token.
        weight: the entry's part of the mean; those of a position sum to one.
        num_positions: merged positions.
    """

    position: Int64[np.ndarray, "member"]
    token: Int64[np.ndarray, "member"]
    weight: Float64[np.ndarray, "member"]
    num_positions: int

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "position"]:
        """Entries of each position, at least one."""
        return np.bincount(self.position, minlength=self.num_positions)

    @cached_property
    def starts(self) -> Int64[np.ndarray, "position_plus_one"]:
        """The entries of position ``g`` are ``starts[g] : starts[g + 1]``."""
        return np.append(0, np.cumsum(self.sizes))


def merged_positions(path: Path) -> tuple[Members, Members]:
    """The teacher's and the student's members of each merged position.

    A position is a distinct list of student tokens that some teacher token is matched with. The
    student's rows of the list are averaged; so are, over the list, the means of the teacher's
    rows that each of these student tokens is matched with.

    >>> path = Path(np.array([0, 0, 1, 2]), np.array([0, 1, 2, 2]), 0)
    >>> teacher, student = merged_positions(path)
    >>> student.token.tolist(), student.weight.tolist()
    ([0, 1, 2], [0.5, 0.5, 1.0])
    >>> teacher.position.tolist(), teacher.token.tolist(), teacher.weight.tolist()
    ([0, 0, 1, 1], [0, 0, 1, 2], [0.5, 0.5, 0.5, 0.5])
    """
    lows, counts = _runs(path.teacher, path.student)
    new = np.ones(len(lows), dtype=bool)
    new[1:] = (np.diff(lows) != 0) | (np.diff(counts) != 0)
    lows, counts = lows[new], counts[new]
    of_student = _ranges(lows, counts, 1 / counts)
    teacher_lows, teacher_counts = _runs(path.student, path.teacher)
    own = teacher_counts[of_student.token]
    spread = _ranges(teacher_lows[of_student.token], own, of_student.weight / own)
    of_teacher = Members(
        of_student.position[spread.position], spread.token, spread.weight, len(lows)
    )
    return of_teacher, of_student


def _runs(
    by: Int64[np.ndarray, "step"], values: Int64[np.ndarray, "step"]
) -> tuple[Int64[np.ndarray, "token"], Int64[np.ndarray, "token"]]:
    """First value and number of values of each token of ``by``; both rise along the path."""
    _, first, counts = np.unique(by, return_index=True, return_counts=True)
    return values[first], counts


def _ranges(
    lows: Int64[np.ndarray, "run"],
    counts: Int64[np.ndarray, "run"],
    weights: Float64[np.ndarray, "run"],
) -> Members:
    """Each run written out: low, low + 1, …; all of a run weigh the same."""
    run = np.repeat(np.arange(len(lows)), counts)
    inside = np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Members(run, lows[run] + inside, weights[run], len(lows))
