"""Divergences between the teacher's and the student's masses on a few cells that make up one.

The last cell is everything else. A cell the student cannot reach (no token of its leads there)
is joined to it: no update could help there, and the divergence would be infinite.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from losses import divergence

Direction: TypeAlias = Literal["forward", "reverse"]


def cell_kl(
    teacher: Float[Tensor, "row cells"], student: Float[Tensor, "row cells"], direction: Direction
) -> Float[Tensor, "row"]:
    """KL of the cells, at least zero; a gradient to the student only.

    Args:
        teacher: log-masses in nats, which need not be normalised.
        student: masses, which make one.
        direction: ``forward``, KL(teacher || student), or ``reverse``.

    >>> teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> abs(cell_kl(teacher, torch.tensor([[0.5, 0.0, 0.5]]), "forward").item()) < 1e-6
    True
    """
    target = reachable(teacher, student)
    floored = student.clamp(min=torch.finfo(student.dtype).tiny).log()
    if direction == "reverse":
        least = torch.finfo(target.dtype).tiny
        return (student * (floored - target.clamp(min=least).log())).sum(-1)
    logs = target.log().masked_fill_(target == 0, 0)
    return (target * (logs - floored)).sum(-1)


def cell_js(
    teacher: Float[Tensor, "row cells"], student: Float[Tensor, "row cells"], beta: float
) -> Float[Tensor, "row"]:
    """Generalised Jensen-Shannon divergence of the cells, see ``divergence.js``."""
    if beta in (0, 1):
        return cell_kl(teacher, student, "reverse" if beta else "forward")
    target = reachable(teacher, student)
    zero = student == 0
    logs = student.masked_fill(zero, 1).log().masked_fill(zero, -torch.inf)
    return divergence.js(target.log(), logs, beta)


@torch.no_grad()
def reachable(
    teacher: Float[Tensor, "row cells"], student: Float[Tensor, "row cells"]
) -> Float[Tensor, "row cells"]:
    """The teacher's masses on the cells where the student has some; they make one.

    The others' mass goes to the last cell; if the student has none there either, the teacher is
    conditioned on the cells that are left.
    """
    mass = torch.exp(teacher - teacher.logsumexp(-1, keepdim=True))
    lost = student == 0
    moved = mass.masked_fill(~lost, 0)[:, :-1].sum(-1)
    mass[:, -1] += moved
    mass.masked_fill_(lost, 0)
    return mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
