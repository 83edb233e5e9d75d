"""Dynamic time warping: the cheapest monotone path that visits every row and every column.

All cells of an anti-diagonal depend only on the two before it, so each one is a few numpy calls.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64

FAR = 2**40
"""More than any path costs; outside the table."""


class Path(NamedTuple):
    """Matched tokens in order, and the summed cost of the pairs."""

    teacher: Int64[np.ndarray, "step"]
    student: Int64[np.ndarray, "step"]
    total: int


def cheapest_path(cost: Int[np.ndarray, "teacher_token student_token"]) -> Path:
    """The path from the first pair to the last; each step moves one side on, or both.

    Of equally cheap ways back the one on both sides is taken, then the teacher's, then the
    student's.

    Args:
        cost: of matching two tokens, at least 0; neither side may be empty.

    Source: the published code of FuseLLM, DSKD and CDM, which breaks ties so.

    >>> path = cheapest_path(np.array([[0, 2], [1, 2], [2, 0]]))
    >>> path.teacher.tolist(), path.student.tolist(), path.total
    ([0, 1, 2], [0, 0, 1], 1)
    """
    reached = _reached(cost)
    teacher, student = _walk_back(reached, *cost.shape)
    return Path(teacher, student, int(reached[-1, -1]))


def _reached(
    cost: Int[np.ndarray, "teacher_token student_token"],
) -> Int64[np.ndarray, "diagonal_plus_two teacher_plus_one"]:
    """Cheapest cost up to the pair (i, j), at ``[i + j + 2, i + 1]``."""
    num_teacher, num_student = cost.shape
    num_diagonals = num_teacher + num_student - 1
    wide = np.full((num_teacher, num_diagonals + 1), FAR, dtype=np.int64)
    wide[:, :num_student] = cost
    # read with rows one shorter, row i begins i places later: its entries stand by i + j
    skewed = wide.ravel()[: num_teacher * num_diagonals].reshape(num_teacher, num_diagonals)
    skewed = np.ascontiguousarray(skewed.T)
    reached = np.full((num_diagonals + 2, num_teacher + 1), FAR, dtype=np.int64)
    reached[0, 0] = 0
    for row, entering in enumerate(skewed, start=2):
        best = np.minimum(reached[row - 1, :-1], reached[row - 1, 1:])
        np.minimum(best, reached[row - 2, :-1], out=best)
        np.add(best, entering, out=reached[row, 1:])
    return reached


def _walk_back(
    reached: Int64[np.ndarray, "diagonal_plus_two teacher_plus_one"],
    num_teacher: int,
    num_student: int,
) -> tuple[Int64[np.ndarray, "step"], Int64[np.ndarray, "step"]]:
    teacher, student = num_teacher - 1, num_student - 1
    steps = [(teacher, student)]
    while teacher or student:
        row = teacher + student
        both = reached.item(row, teacher)
        one = reached.item(row + 1, teacher)
        other = reached.item(row + 1, teacher + 1)
        if both <= min(one, other):
            teacher, student = teacher - 1, student - 1
        elif one <= other:
            teacher -= 1
        else:
            student -= 1
        steps.append((teacher, student))
    found = np.array(steps[::-1], dtype=np.int64)
    return found[:, 0], found[:, 1]
