"""Divergences between two coins: does the model write this chunk of bytes, or something else?

Every function takes chunk log-probabilities in nats, the teacher's first, and gives one value a
chunk, not reduced. The temperature divides the log-probabilities, so a coin lands heads with
probability p ** (1 / temperature). By data processing the coins' divergence is a lower bound of
the divergence between the full outcome distributions, and it is zero only at equality.

Source: ALM, Minixhofer et al. 2025, arXiv:2503.20083, section 3 and appendix E.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-6
"""Nats taken off a log-probability, so that a certain chunk's complement is not log(0)."""


def log1mexp(x: Float[Tensor, "chunk"]) -> Float[Tensor, "chunk"]:
    """log(1 - exp(x)) for x <= 0, precise at both ends; -inf at 0.

    >>> [f"{y:.6g}" for y in log1mexp(torch.tensor([-1e-6, -50.0])).tolist()]
    ['-13.8155', '-1.92875e-22']
    """
    near_zero = x > -math.log(2)
    near = torch.log(-torch.expm1(torch.where(near_zero, x, -1)))
    far = torch.log1p(-torch.exp(torch.where(near_zero, -1, x)))
    return torch.where(near_zero, near, far)


def binary_ce(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"], temperature: float
) -> Float[Tensor, "chunk"]:
    """Cross-entropy of the coins, as published: its minimum is the teacher coin's entropy."""
    a, b = _tempered(teacher, temperature), _tempered(student, temperature)
    return -(a.exp() * b + -torch.expm1(a) * log1mexp(b))


def binary_kl(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"], temperature: float
) -> Float[Tensor, "chunk"]:
    """KL(teacher's coin || student's coin): ``binary_ce`` minus a constant, zero at equality."""
    a, b = _tempered(teacher, temperature), _tempered(student, temperature)
    return a.exp() * (a - b) - torch.expm1(a) * (log1mexp(a) - log1mexp(b))


def reverse_binary_kl(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"], temperature: float
) -> Float[Tensor, "chunk"]:
    """KL(student's coin || teacher's coin)."""
    return binary_kl(student, teacher, temperature)


def abs_exp(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"], temperature: float
) -> Float[Tensor, "chunk"]:
    """Total variation of the coins: the difference of their probabilities of heads."""
    return (_tempered(teacher, temperature).exp() - _tempered(student, temperature).exp()).abs()


def joschu_k2(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"], temperature: float
) -> Float[Tensor, "chunk"]:
    """Half the squared log-ratio. Source: Schulman 2020, joschu.net/blog/kl-approx.html."""
    return ((teacher - student) / temperature).square() / 2


def joschu_k3(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"], temperature: float
) -> Float[Tensor, "chunk"]:
    """exp(r) - 1 - r of the log-ratio r. Source: Schulman 2020, joschu.net/blog/kl-approx.html."""
    ratio = (teacher - student) / temperature
    return torch.expm1(ratio) - ratio


def binary_kl_temp_limit(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"]
) -> Float[Tensor, "chunk"]:
    """``binary_kl`` times the temperature, as the temperature grows without bound."""
    a, b = _tempered(teacher, 1.0), _tempered(student, 1.0)
    return (a - b) + a * (torch.log(-b) - torch.log(-a))


def absolute(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"]
) -> Float[Tensor, "chunk"]:
    """``abs_exp`` times the temperature, as the temperature grows without bound."""
    return (teacher - student).abs()


def renyi(
    teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"], alpha: float
) -> Float[Tensor, "chunk"]:
    """Rényi divergence of order ``alpha`` (positive, not 1) of the untempered coins."""
    a, b = _tempered(teacher, 1.0), _tempered(student, 1.0)
    heads = alpha * a + (1 - alpha) * b
    tails = alpha * log1mexp(a) + (1 - alpha) * log1mexp(b)
    return torch.logaddexp(heads, tails) / (alpha - 1)


def _tempered(logprobs: Float[Tensor, "chunk"], temperature: float) -> Float[Tensor, "chunk"]:
    """Log-probability of heads, just below zero even where rounding lifted it to or above 0."""
    return logprobs.clamp(max=0) / temperature - EPSILON
