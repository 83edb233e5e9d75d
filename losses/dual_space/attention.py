"""Cross-model attention: each row of one model is a mixture of the other model's rows.

Queries and keys are the embeddings of the token that a row reads and of the one it predicts. As
published, a row also attends to rows that have read the answer, and the teacher's values hold the
answer's embedding, so the projected teacher knows what it should predict. Here a row sees only
rows that have read no more bytes than itself, and the values are hidden states alone.

Source: DSKD, Zhang et al. 2024, arXiv:2406.17328, section 4; songmzhang/DSKD.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from losses.dual_space.projectors import apply


@dataclass(frozen=True)
class Side:
    """One model's rows: hidden states, and embeddings of the tokens they read and predict."""

    hidden: Float[Tensor, "row width"]
    read: Float[Tensor, "row width"]
    target: Float[Tensor, "row width"]

    @property
    def index(self) -> Float[Tensor, "row twice"]:
        """What rows are matched by."""
        return torch.cat([self.read, self.target], dim=-1)


class Seen(NamedTuple):
    """Which rows of the other model a row may attend to."""

    by_student: Bool[Tensor, "student_row teacher_row"]
    by_teacher: Bool[Tensor, "teacher_row student_row"]


class Scales(NamedTuple):
    """What the teacher's tensors are divided by: their standard deviations."""

    matching: Float[Tensor, ""]
    target: Float[Tensor, ""]
    hidden: Float[Tensor, ""]


def scales_of(side: Side) -> Scales:
    """Over all rows and channels of the document (published: of the batch, padding included)."""
    return Scales(*(_deviation(x) for x in (side.index, side.target, side.hidden)))


def _deviation(values: Float[Tensor, "row width"]) -> Float[Tensor, ""]:
    if values.numel() < 2:
        return values.new_ones(())
    return values.std().clamp(min=torch.finfo(values.dtype).eps)


class CrossAttention(nn.Module):
    """Query and two value maps; called as one module, once a document, also on no rows.

    Args:
        student_width: channels of the student's hidden states and of its embeddings.
        teacher_width: of the teacher's.
        knows_answer: put the predicted token's embedding into the teacher's values (published).
    """

    def __init__(self, student_width: int, teacher_width: int, *, knows_answer: bool) -> None:
        super().__init__()
        self.query = nn.Linear(2 * student_width, 2 * teacher_width)
        self.t2s = nn.Linear(teacher_width, student_width)
        self.s2t = nn.Linear(student_width, teacher_width)
        self.knows_answer = knows_answer

    def forward(
        self, ours: Side, theirs: Side, seen: Seen
    ) -> tuple[Float[Tensor, "_ student_width"], Float[Tensor, "_ teacher_width"]]:
        """The teacher's states at the student's rows, and the student's at the teacher's.

        Rows that see nothing are left out.
        """
        scales = scales_of(theirs)
        queries = apply(self.query, ours.index)
        keys = (theirs.index / scales.matching).to(queries.dtype)
        scores = queries @ keys.T / math.sqrt(keys.shape[-1])
        values = theirs.hidden / scales.hidden
        if self.knows_answer:
            values = values + theirs.target / scales.target
        mixed_teacher = _mix(scores, seen.by_student, apply(self.t2s, values))
        mixed_student = _mix(scores.T, seen.by_teacher, apply(self.s2t, ours.hidden))
        return mixed_teacher, mixed_student


def _mix(
    scores: Float[Tensor, "row other"],
    seen: Bool[Tensor, "row other"],
    values: Float[Tensor, "other width"],
) -> Float[Tensor, "_ width"]:
    sees = seen.any(-1)
    weights = scores[sees].masked_fill(~seen[sees], -torch.inf).softmax(-1)
    return weights @ values
