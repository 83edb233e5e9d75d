"""Divergences between the teacher's and the student's masses on a few cells that make up one.

The last cell is everything else. A cell the student cannot reach (no token of its leads there)
is joined to it: no update could help there, and the divergence would be infinite.
"""

from typing import Any, Literal, TypeAlias

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
    if direction == "forward":
        rows: Float[Tensor, "row"] = _ForwardKl.apply(target, student)  # type: ignore[no-untyped-call]
        return rows
    least = torch.finfo(target.dtype).tiny
    logs = student.clamp(min=least).log() - target.clamp(min=least).log()
    return _at_least_zero((student * logs).sum(-1))


def cell_js(
    teacher: Float[Tensor, "row cells"], student: Float[Tensor, "row cells"], beta: float
) -> Float[Tensor, "row"]:
    """Generalised Jensen-Shannon divergence of the cells, see ``divergence.js``."""
    if beta in (0, 1):
        return cell_kl(teacher, student, "reverse" if beta else "forward")
    target = reachable(teacher, student)
    zero = student == 0
    logs = student.masked_fill(zero, 1).log().masked_fill(zero, -torch.inf)
    return _at_least_zero(divergence.js(target.log(), logs, beta))


class _ForwardKl(torch.autograd.Function):
    """sum p log(p / q); d / d q = -p / q."""

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor) -> Tensor:
        least = torch.finfo(student.dtype).tiny
        ratio = teacher / student.clamp(min=least)
        ctx.save_for_backward(ratio)
        return ratio.clamp(min=least).log_().mul_(teacher).sum(-1).clamp_(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (ratio,) = ctx.saved_tensors
        return None, ratio * -gradients[0].unsqueeze(-1)


def _at_least_zero(values: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Undo rounding below zero; the gradient stays what it is."""
    found = values.detach()
    return values + (found.clamp(min=0) - found)


@torch.no_grad()
def reachable(
    teacher: Float[Tensor, "row cells"], student: Float[Tensor, "row cells"]
) -> Float[Tensor, "row cells"]:
    """The teacher's masses on the cells where the student has some; they make one.

    The others' mass goes to the last cell; if the student has none there either, the teacher is
    conditioned on the cells that are left.
    """
    mass = torch.softmax(teacher, dim=-1)
    there = (student > 0).to(mass)
    kept = mass * there
    kept[:, -1] += (mass - kept)[:, :-1].sum(-1) * there[:, -1]
    return kept.div_(kept.sum(-1, keepdim=True).clamp_(min=torch.finfo(mass.dtype).tiny))
