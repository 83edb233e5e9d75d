"""Maps between two models' spaces that keep the logits of the tokens both have.

With P the head's columns of the shared tokens and P⁺ its pseudo-inverse, a state of the teacher
goes to P_T P_S⁺ of it: the state whose logits on the shared tokens are nearest to its own. The
student's states go the other way by P_S P_T⁺ with the head as it is now. The first map is trained:
it is held as where it starts and a correction, so that nothing but the correction has to be saved.

Source: DSKDv2, songmzhang/DSKDv2 (initialisation by pseudo-inverse).
"""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from losses.dual_space.projectors import apply
from losses.dual_space.shared_tokens import SharedTokens
from losses.dual_space.spaces import frozen, in_parts, rows_in_memory
from losses.prediction import Head, Prediction

ROWS = 8192
"""Tokens summed over at once."""


class Maps(NamedTuple):
    """What the maps are made of.

    Args:
        start: the teacher's states to the student's space, before any training.
        inverse: (P_T P_Tᵀ)⁺; P_Tᵀ times it is P_T⁺.
    """

    start: Float[Tensor, "teacher_width student_width"]
    inverse: Float[Tensor, "teacher_width teacher_width"]


class SharedLogits(nn.Module):
    """Both maps; called as one module, once a document, also on no rows.

    Args:
        student: its head as it starts.
        shared: the tokens of both vocabularies.
        teacher_width: channels of the teacher's hidden states.
    """

    def __init__(self, student: Head, shared: SharedTokens, teacher_width: int) -> None:
        super().__init__()
        self.students, self.teachers = map(torch.from_numpy, (shared.students, shared.teachers))
        self.student_of = torch.from_numpy(shared.student_of)
        self.student_rows: Tensor | None = weight_of(student).detach()[self.students].clone()
        self.student_scale = student.scale
        self.t2s = nn.Linear(teacher_width, self.student_rows.shape[1], bias=False)
        nn.init.zeros_(self.t2s.weight)
        self.maps: Maps | None = None

    def forward(
        self,
        student: Prediction,
        positions: Int64[Tensor, "row"],
        head: Head,
        hidden: Float[Tensor, "row teacher_width"],
    ) -> tuple[Float[Tensor, "row student_width"], Float[Tensor, "row teacher_width"]]:
        """The teacher's states in the student's space, the student's in the teacher's.

        Args:
            student: the student's prediction.
            positions: its rows.
            head: the teacher's.
            hidden: the teacher's states for the same tokens.
        """
        maps = self._maps(head)
        theirs = hidden.to(maps.start.dtype) @ maps.start + apply(self.t2s, hidden)
        teachers, weight = self.teachers.to(hidden.device), weight_of(head)

        def to_teacher(
            ours: Float[Tensor, "row student_width"],
        ) -> Float[Tensor, "row teacher_width"]:
            with frozen(student.head.linear):
                logits: Tensor = student.head.linear(ours)[:, self.students.to(ours.device)]
            logits = logits.to(weight.dtype) * (student.head.scale / head.scale)
            spread = logits.new_zeros(len(logits), head.num_valid)
            spread = spread.index_copy(1, teachers, logits) @ weight[: head.num_valid]
            back: Tensor = spread.to(maps.inverse.dtype) @ maps.inverse
            return back

        size = rows_in_memory(student, head)
        return theirs, in_parts(to_teacher, size, student.hidden[positions])

    def _maps(self, head: Head) -> Maps:
        """Made at the first call, when the teacher's head has come."""
        if self.maps is None:
            if self.student_rows is None:
                raise ValueError("the student's head as it started is gone")
            found = maps_of(self.student_rows, weight_of(head), self.teachers)
            finer = torch.promote_types(self.student_rows.dtype, torch.float32)
            start = found.start * (head.scale / self.student_scale)
            self.maps = Maps(start.to(finer), found.inverse.to(finer))
            self.student_rows = None
        return self.maps


def weight_of(head: Head) -> Float[Tensor, "vocab width"]:
    """The head's weight.

    Raises:
        ValueError: the head is not one linear map.
    """
    weight = getattr(head.linear, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(
            f"the head is a {type(head.linear).__name__} without one whole weight; expected a "
            "linear map, before an engine wraps the model"
        )
    return weight


@torch.no_grad()
def maps_of(
    student_rows: Float[Tensor, "shared student_width"],
    teacher_weight: Float[Tensor, "vocab teacher_width"],
    teachers: Int64[Tensor, "shared"],
) -> Maps:
    """Both maps in float64, on the head's device."""
    device = teacher_weight.device
    widths = (teacher_weight.shape[1], student_rows.shape[1])
    zeros = partial(torch.zeros, dtype=torch.float64, device=device)
    cross, theirs, ours = zeros(widths), zeros(widths[0], widths[0]), zeros(widths[1], widths[1])
    for rows, ids in zip(student_rows.split(ROWS), teachers.split(ROWS), strict=True):
        p, q = (x.to(device).double() for x in (rows, teacher_weight[ids.to(device)]))
        cross, ours, theirs = cross + q.T @ p, ours + p.T @ p, theirs + q.T @ q
    return Maps(cross @ _inverse(ours), _inverse(theirs))


def _inverse(gram: Float64[Tensor, "width width"]) -> Float64[Tensor, "width width"]:
    found: Tensor = torch.linalg.pinv(gram, hermitian=True)
    return found
