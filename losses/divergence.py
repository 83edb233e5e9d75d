"""Divergences between two tables of log-probabilities, one value a row, in nats.

Every function takes the teacher's table first and is not reduced over rows. Gradients go to the
student only. A probability of zero (log-probability -inf) adds nothing where the weight in front
of it is zero, and makes the divergence infinite where it is not.

**Temperature** is the caller's: ``log_softmax(logprobs / T)`` on both tables. The gradient of a
tempered divergence shrinks by about 1 / T squared; whoever mixes it with an untempered loss may
multiply it by T squared (Hinton et al. 2015, arXiv:1503.02531, section 2). Nothing here does.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Name: TypeAlias = Literal[
    "forward", "reverse", "skewed_forward", "skewed_reverse", "js", "adaptive", "tvd"
]
"""What a divergence between full distributions is called in a run file."""

ELEMENTS_IN_CACHE = 2**17
"""Entries of a table worked on at once on a CPU, so that they stay in its cache."""


def forward(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"]
) -> Float[Tensor, "row"]:
    """KL(teacher || student).

    Equal to ``kl`` in value and gradient, in one pass over memory each way.

    >>> half, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    >>> round(forward(sure, half).item(), 6), forward(half, sure).item()
    (0.693147, inf)
    """
    rows: Float[Tensor, "row"] = _ForwardKL.apply(teacher, student)  # type: ignore[no-untyped-call]
    return rows


def reverse(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"]
) -> Float[Tensor, "row"]:
    """KL(student || teacher)."""
    return kl(student, teacher)


def skewed_forward(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"], skew: float
) -> Float[Tensor, "row"]:
    """KL(teacher || skew · teacher + (1 - skew) · student), ``skew`` in [0, 1).

    Source: DistiLLM, Ko et al. 2024, arXiv:2402.03898, section 3.1.
    """
    return kl(teacher, blend(teacher, student, skew))


def skewed_reverse(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"], skew: float
) -> Float[Tensor, "row"]:
    """KL(student || skew · student + (1 - skew) · teacher), ``skew`` in [0, 1).

    Source: DistiLLM, Ko et al. 2024, arXiv:2402.03898, section 3.1.
    """
    return kl(student, blend(student, teacher, skew))


def js(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"], beta: float
) -> Float[Tensor, "row"]:
    """Generalised Jensen-Shannon: beta · KL(teacher || m) + (1 - beta) · KL(student || m).

    Here m = beta · teacher + (1 - beta) · student, ``beta`` in [0, 1]. The ends, where this is
    zero, are defined as in TRL: 0 is the forward KL and 1 the reverse KL.

    Source: GKD, Agarwal et al. 2023, arXiv:2306.13649, equation 1.
    """
    if beta == 0:
        return forward(teacher, student)
    if beta == 1:
        return reverse(teacher, student)
    middle = blend(teacher, student, beta)
    return beta * kl(teacher, middle) + (1 - beta) * kl(student, middle)


def adaptive(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"], alpha: float
) -> Float[Tensor, "row"]:
    """Forward and reverse KL, weighted by where the two differ.

    The teacher's least likely tokens that together stay below ``alpha`` are the tail, the others
    the head. The forward KL weighs as much as |p - q| in the head, the reverse KL as much as in
    the tail; the weights carry no gradient.

    Source: Wu et al. 2024, arXiv:2404.02657, section 4.
    """
    with torch.no_grad():
        ascending, order = teacher.exp().sort(dim=-1)
        gap = (ascending - student.exp().gather(-1, order)).abs()
        in_tail = ascending.cumsum(-1) < alpha
        total = gap.sum(-1)
        tail = torch.where(in_tail, gap, 0).sum(-1)
        share = torch.where(total > 0, tail / torch.where(total > 0, total, 1), 0.5)
    return (1 - share) * forward(teacher, student) + share * reverse(teacher, student)


def total_variation(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"]
) -> Float[Tensor, "row"]:
    """Half the summed absolute difference of the probabilities, in [0, 1]."""
    return (teacher.exp() - student.exp()).abs().sum(-1) / 2


def kl(p: Float[Tensor, "row vocab"], q: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """KL(p || q), with a gradient to both."""
    weights = p.exp()
    differences = torch.where(weights == 0, 0, p - q)
    return (weights * differences).sum(-1)


def blend(
    p: Float[Tensor, "row vocab"], q: Float[Tensor, "row vocab"], weight: float
) -> Float[Tensor, "row vocab"]:
    """log(weight · p + (1 - weight) · q) of two tables of log-probabilities, 0 <= weight < 1."""
    if weight == 0:
        return q
    both_zero = (p == -math.inf) & (q == -math.inf)  # logaddexp has a NaN gradient there
    first = torch.where(both_zero, 0, p) + math.log(weight)
    second = torch.where(both_zero, 0, q) + math.log1p(-weight)
    return torch.where(both_zero, -math.inf, torch.logaddexp(first, second))


def row_blocks(table: Float[Tensor, "row vocab"]) -> tuple[Tensor, ...]:
    """The table cut into blocks of rows that stay in a CPU's cache; whole on other devices."""
    in_cache = max(1, ELEMENTS_IN_CACHE // table.shape[-1])
    size = in_cache if table.device.type == "cpu" else max(1, len(table))
    return torch.split(table, size)


class _ForwardKL(torch.autograd.Function):
    """sum p (log p - log q) by blocks of rows; d / d log q = -p."""

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor) -> Tensor:
        ctx.save_for_backward(teacher)
        blocks = zip(row_blocks(teacher), row_blocks(student), strict=True)
        rows = torch.cat([torch.sub(p, q).mul_(p.exp()).sum(-1) for p, q in blocks])
        # 0 · -inf is NaN: only then the slower form, which leaves such entries out
        return kl(teacher, student) if bool(rows.isnan().any()) else rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (teacher,) = ctx.saved_tensors
        return None, teacher.exp().mul_(-gradients[0].unsqueeze(-1))


BY_NAME: dict[Name, Callable[..., Tensor]] = {
    "forward": forward,
    "reverse": reverse,
    "skewed_forward": skewed_forward,
    "skewed_reverse": skewed_reverse,
    "js": js,
    "adaptive": adaptive,
    "tvd": total_variation,
}
"""Each takes the teacher's and the student's table, and a parameter where it has one."""

DEFAULT_PARAMETER: dict[Name, float] = {
    "skewed_forward": 0.1,
    "skewed_reverse": 0.1,
    "js": 0.5,
    "adaptive": 0.5,
}


def named(name: Name, parameter: float | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The divergence of this name with its parameter, or with the default one.

    >>> half, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    >>> round(named("js")(sure, half).item(), 6) == round(js(sure, half, 0.5).item(), 6)
    True
    """
    function, default = BY_NAME[name], DEFAULT_PARAMETER.get(name)
    if default is None:
        return function
    value = default if parameter is None else parameter
    return lambda teacher, student: function(teacher, student, value)
