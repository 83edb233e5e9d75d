"""Trained linear maps between two models' hidden states, for rows that belong together.

Source: DSKD for one vocabulary, Zhang et al. 2024, arXiv:2406.17328, section 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Projectors(nn.Module):
    """Two maps with a bias; called as one module, once a document.

    Args:
        student_width: channels of the student's hidden states.
        teacher_width: of the teacher's.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.t2s = nn.Linear(teacher_width, student_width)
        self.s2t = nn.Linear(student_width, teacher_width)

    def forward(
        self, ours: Float[Tensor, "row student_width"], theirs: Float[Tensor, "row teacher_width"]
    ) -> tuple[Float[Tensor, "row student_width"], Float[Tensor, "row teacher_width"]]:
        """The teacher's states in the student's space, the student's in the teacher's."""
        return apply(self.t2s, theirs), apply(self.s2t, ours)


def apply(linear: nn.Module, rows: Float[Tensor, "row before"]) -> Float[Tensor, "row after"]:
    """The map in its own number format, its result in float32 or finer."""
    weight = linear.weight
    if not isinstance(weight, Tensor):
        raise TypeError("a projector must have one weight")
    mapped: Tensor = linear(rows.to(weight.dtype))
    return mapped.to(torch.promote_types(mapped.dtype, torch.float32))
