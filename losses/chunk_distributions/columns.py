"""W turned on its side: for each teacher token, the student tokens that lead to it.

A loss asks for a few teacher tokens a row, so columns are what it reads. A partition of the
vocabularies into matched pairs is the same thing with one student token a column.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

from losses.alignment.projection import Projection

GRID = 2.0**-23
"""Weights are multiples of it: float32 adds them up without rounding, in any order."""


@dataclass(frozen=True)
class Columns:
    """W by teacher token; the spare last column is empty, for padding.

    Args:
        starts: column ``t`` is ``starts[t] : starts[t + 1]``.
        students: the entries' student tokens.
        weights: the entries' weights; each student token's sum to one.
        num_student: ids of the student's vocabulary.
    """

    starts: Int64[Tensor, "teacher_plus_two"]
    students: Int32[Tensor, "entry"]
    weights: Float[Tensor, "entry"]
    num_student: int

    @property
    def num_teacher(self) -> int:
        """Ids of the teacher's vocabulary, and the spare column's id."""
        return len(self.starts) - 2


@lru_cache(maxsize=16)
def columns_of(projection: Projection, device: torch.device, *, normalised: bool = True) -> Columns:
    """W by columns, in float64.

    Args:
        projection: W by rows.
        device: where to put it.
        normalised: let every row sum to exactly one, on the grid.
    """
    weights = projection.weights.astype(np.float64)
    students = projection.student_ids
    if normalised and len(weights):
        sums = np.bincount(students, weights=weights, minlength=projection.num_student)
        weights = np.round(weights / sums[students] / GRID) * GRID
        missing = 1 - np.bincount(students, weights=weights, minlength=projection.num_student)
        heaviest = projection.offsets[:-1][np.diff(projection.offsets) > 0]
        weights[heaviest] += missing[students[heaviest]]
    order = np.argsort(projection.teacher_ids, kind="stable")
    return sorted_columns(
        projection.teacher_ids[order], students[order], weights[order], projection, device
    )


def sorted_columns(
    teachers: Int64[np.ndarray, "entry"],
    students: Int64[np.ndarray, "entry"],
    weights: Float64[np.ndarray, "entry"],
    projection: Projection,
    device: torch.device,
) -> Columns:
    """Columns of entries that are in the order of their teacher tokens."""
    counts = np.bincount(teachers, minlength=projection.num_teacher + 1)
    starts = np.concatenate(([0], np.cumsum(counts)))
    arrays = (starts, students.astype(np.int32), weights)
    to = [torch.from_numpy(array).to(device) for array in arrays]
    return Columns(to[0], to[1], to[2], num_student=projection.num_student)


def check_width(columns: Columns, num_student: int) -> None:
    """Refuse a W of another student.

    Raises:
        ValueError: W was built for a student's vocabulary of another size.
    """
    if columns.num_student != num_student:
        raise ValueError(
            f"the projection W has {columns.num_student} rows, the student predicts "
            f"{num_student} tokens; expected a W built from the student's vocabulary"
        )


def present(projection: Projection | None, method: str) -> Projection:
    """The projection, which the method cannot do without.

    Raises:
        ValueError: there is none.
    """
    if projection is None:
        raise ValueError(f"method {method} reads the projection W; pass Pair.projection")
    return projection
