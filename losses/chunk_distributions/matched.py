"""Pairs of tokens, one of each vocabulary, that a partition loss compares one by one.

Source: X-Token, arXiv:2605.21699 (H-KL); NVIDIA-NeMo/RL's ``build_exact_token_map``.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from losses.alignment.projection import Projection
from losses.chunk_distributions.columns import Columns, sorted_columns

Common: TypeAlias = Literal["top1", "relaxed", "strict"]
"""Which rows of W count.

``top1``: every student token with its heaviest entry (the paper's H-KL). ``relaxed``: only where
that weighs 0.6 or more (its published code). ``strict``: rows of one exact match (GOLD).
"""
RELAXED_WEIGHT = 0.6
"""Least weight of a row's heaviest entry in the published code's relaxed set."""


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
def matched_of(projection: Projection, device: torch.device, common: Common) -> Matched:
    """The pairs by W as it was built.

    A teacher token keeps the student token with the largest weight, of several the lowest id.
    """
    students = np.flatnonzero(np.diff(projection.offsets) > 0)
    heaviest = projection.offsets[students]
    return _matched(projection, students, heaviest, projection.weights, device, common)


def matched_by(
    learned: Float[Tensor, "entry"], columns: Columns, projection: Projection, common: Common
) -> Matched:
    """The same by learned weights, which are in the order of the columns."""
    weights = learned.detach().float().cpu().numpy().tobytes()
    return _matched_by(weights, projection, columns.starts.device, common)


@lru_cache(maxsize=4)
def _matched_by(
    learned: bytes, projection: Projection, device: torch.device, common: Common
) -> Matched:
    """Learned weights change once a step, but every document asks for the pairs."""
    weights = np.empty(len(projection.teacher_ids), dtype=np.float32)
    weights[np.argsort(projection.teacher_ids, kind="stable")] = np.frombuffer(learned, np.float32)
    order = np.lexsort((-weights, projection.student_ids))
    students, first = np.unique(projection.student_ids[order], return_index=True)
    return _matched(projection, students, order[first], weights, device, common)


def _matched(
    projection: Projection,
    students: Int64[np.ndarray, "student"],
    heaviest: Int64[np.ndarray, "student"],
    weights: Float[np.ndarray, "entry"],
    device: torch.device,
    common: Common,
) -> Matched:
    """From the place of each student token's heaviest entry."""
    top, teachers = weights[heaviest], projection.teacher_ids[heaviest]
    kept = {
        "top1": top > 0,
        "relaxed": top >= RELAXED_WEIGHT,
        "strict": projection.exact[students],
    }[common]
    students, top, teachers = students[kept], top[kept], teachers[kept]
    order = np.lexsort((students, ~projection.exact[students], -top, teachers))
    teachers, unique = np.unique(teachers[order], return_index=True)
    students = students[order][unique]
    others = np.setdiff1d(np.arange(projection.num_student), students)
    columns = sorted_columns(teachers, students, np.ones(len(students)), projection, device)
    pairs = [torch.from_numpy(ids).to(device) for ids in (students, teachers, others)]
    return Matched(columns, pairs[0], pairs[1], pairs[2])
