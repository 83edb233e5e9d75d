"""Cross-entropy and KL of each slot, in nats."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses import divergence
from losses.byte_distributions import FLOOR
from losses.prediction import gather


def byte_cross_entropy(
    student: Float[Tensor, "slot symbol"], target: Int64[Tensor, "slot"]
) -> Float[Tensor, "slot"]:
    """How unlikely the student finds the byte of each slot."""
    return -gather(student, target)


def byte_kl(
    teacher: Float[Tensor, "slot symbol"], student: Float[Tensor, "slot symbol"]
) -> Float[Tensor, "slot"]:
    """KL(teacher || student); the gradient goes to the student.

    The teacher's log-probabilities may be rounded: they are normalised again, so that the KL of
    two equal models is of the second order in what rounding changed.

    >>> half = torch.tensor([[0.5, 0.5]]).log()
    >>> round(byte_kl(half + 0.001, torch.tensor([[0.25, 0.75]]).log()).item(), 6)
    0.143841
    """
    return divergence.forward(torch.log_softmax(teacher, dim=-1), student)


def ruled_out(
    teacher: Float[Tensor, "slot symbol"], student: Float[Tensor, "slot symbol"]
) -> Float[Tensor, "slot"]:
    """What the KL owes to symbols that have nothing but the student's floor, without a gradient.

    Inside a token no vocabulary goes on with every byte. Without this part the KL is that of both
    models given one of the other symbols, times the teacher's probability of those.
    """
    with torch.no_grad():
        logprobs = torch.log_softmax(teacher, dim=-1)
        probs = logprobs.exp()
        out = student < math.log(2 * FLOOR / student.shape[-1])
        owed = torch.where(out & (probs > 0), probs * (logprobs - student), 0).sum(-1)
        left = torch.where(out, 0, probs).sum(-1)
        return owed + torch.xlogy(left, left)
