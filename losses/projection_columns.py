"""W turned on its side: for each teacher token, the student tokens that lead to it.

A loss asks for a few teacher tokens a row, so columns are what it reads. A partition of the
vocabularies into matched pairs is the same thing with one student token a column.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Tensor, nn

from losses.alignment.projection import Projection

Common: TypeAlias = Literal["top1", "relaxed", "strict"]
GRID = 2.0**-23
"""Weights are multiples of it: float32 adds them up without rounding, in any order."""
RELAXED_WEIGHT = 0.6
"""Least weight of a row's heaviest entry in the published code's relaxed set."""


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


@dataclass(frozen=True)
class Matched:
    """A partition of both vocabularies into matched pairs and the rest.

    Args:
        columns: the pairs; a teacher token has one entry of weight 1 or none.
        students: the matched student tokens, in the order of their teacher tokens.
        teachers: the matched teacher tokens, ascending.
        other_students: the student tokens without a partner, ascending.
    """

    columns: Columns
    students: Int64[Tensor, "pair"]
    teachers: Int64[Tensor, "pair"]
    other_students: Int64[Tensor, "other"]

    @property
    def share(self) -> float:
        """The part of the teacher's vocabulary that is matched."""
        return len(self.teachers) / max(1, self.columns.num_teacher)

    def is_matched(self, ids: Int64[Tensor, "row k"]) -> Bool[Tensor, "row k"]:
        """True where a teacher token has a partner; never for the spare column."""
        return self.columns.starts[ids + 1] > self.columns.starts[ids]

    def partner(self, ids: Int64[Tensor, "row k"]) -> Int64[Tensor, "row k"]:
        """Each teacher token's student token; of one without a partner some student token."""
        padded = torch.cat([self.students, self.students.new_zeros(1)])
        return padded[self.columns.starts[ids]]


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
    return _columns(
        projection.teacher_ids[order], students[order], weights[order], projection, device
    )


@lru_cache(maxsize=16)
def matched_of(projection: Projection, device: torch.device, common: Common) -> Matched:
    """The pairs that a partition loss compares one by one.

    A teacher token keeps the student token with the largest weight, of several the lowest id.

    Args:
        projection: W.
        device: where to put it.
        common: ``top1``, every student token with its heaviest entry (the paper's H-KL);
            ``relaxed``, only where that weighs 0.6 or more (its published code); ``strict``, only
            rows of one exact match (GOLD).

    Source: X-Token, arXiv:2605.21699 (H-KL); NVIDIA-NeMo/RL's ``build_exact_token_map``.
    """
    students = np.flatnonzero(np.diff(projection.offsets) > 0)
    first = projection.offsets[students]
    weights, teachers = projection.weights[first], projection.teacher_ids[first]
    kept = {
        "top1": weights > 0,
        "relaxed": weights >= RELAXED_WEIGHT,
        "strict": projection.exact[students],
    }[common]
    students, weights, teachers = students[kept], weights[kept], teachers[kept]
    order = np.lexsort((students, -weights, teachers))
    teachers, unique = np.unique(teachers[order], return_index=True)
    students = students[order][unique]
    others = np.setdiff1d(np.arange(projection.num_student), students)
    columns = _columns(teachers, students, np.ones(len(students)), projection, device)
    pairs = [torch.from_numpy(ids).to(device) for ids in (students, teachers, others)]
    return Matched(columns, pairs[0], pairs[1], pairs[2])


class LearnedWeights(nn.Module):
    """W's non-zeros as log-weights, softmax by student token; starts at W.

    Called as a module, so that ZeRO-3 can gather its parameter.

    Source: X-Token, arXiv:2605.21699: W trained together with the student under P-KL.
    """

    heaviest: Tensor
    """True for one entry of each row, its heaviest at the start."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(columns.weights.log().float())
        students = columns.students.long()
        largest = columns.weights.new_zeros(columns.num_student)
        largest = largest.scatter_reduce(0, students, columns.weights, "amax")
        first = torch.full((columns.num_student,), len(students))
        places = torch.arange(len(students))
        best = columns.weights == largest[students]
        first = first.scatter_reduce(0, students[best], places[best], "amin")
        heaviest = first[students] == places
        self.register_buffer("heaviest", heaviest, persistent=False)

    def forward(self, columns: Columns) -> Float[Tensor, "entry"]:
        """The entries' weights, in the order of the columns, in float32 or finer."""
        students = columns.students.long()
        logs = self.log_weights.to(torch.promote_types(self.log_weights.dtype, torch.float32))
        largest = logs.new_full((columns.num_student,), -torch.inf)
        largest = largest.scatter_reduce(0, students, logs.detach(), "amax")
        exponentials = (logs - largest[students]).exp()
        sums = logs.new_zeros(columns.num_student).index_add(0, students, exponentials)
        weights = exponentials / sums[students]
        return weights + (self._on_grid(weights.detach(), students) - weights.detach())

    def _on_grid(
        self, weights: Float[Tensor, "entry"], students: Int64[Tensor, "entry"]
    ) -> Float[Tensor, "entry"]:
        """The weights on the grid, each row's sum exactly one; its first entry takes what lacks."""
        rounded = (weights / GRID).round() * GRID
        sums = weights.new_zeros(int(students.max()) + 1).index_add(0, students, rounded)
        return rounded + torch.where(self.heaviest, 1 - sums[students], 0)


def present(projection: Projection | None, method: str) -> Projection:
    """The projection, which the method cannot do without.

    Raises:
        ValueError: there is none.
    """
    if projection is None:
        raise ValueError(f"method {method} reads the projection W; pass Pair.projection")
    return projection


def _columns(
    teachers: Int64[np.ndarray, "entry"],
    students: Int64[np.ndarray, "entry"],
    weights: Float64[np.ndarray, "entry"],
    projection: Projection,
    device: torch.device,
) -> Columns:
    counts = np.bincount(teachers, minlength=projection.num_teacher + 1)
    starts = np.concatenate(([0], np.cumsum(counts)))
    arrays = (starts, students.astype(np.int32), weights)
    to = [torch.from_numpy(array).to(device) for array in arrays]
    return Columns(to[0], to[1], to[2], num_student=projection.num_student)
