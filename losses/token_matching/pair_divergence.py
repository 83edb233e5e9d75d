"""CDM's losses of pairs of tokens: the divergence as it is meant, and as it is stored."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

MISSING = -1e4
"""The published mark of a token without a partner."""


@dataclass(frozen=True)
class Pairs:
    """Values of both models on paired tokens: first the teacher's likeliest, then the student's.

    Args:
        teacher: log-probabilities or logits; each half is one list.
        student: the same for the student, with a gradient.
        paired: False where a likely token has no partner.
    """

    teacher: Float[Tensor, "position 2 k"]
    student: Float[Tensor, "position 2 k"]
    paired: Bool[Tensor, "position 2 k"]

    @property
    def num_compared(self) -> Int64[Tensor, ""]:
        """Positions at which at least one list has two pairs: a single pair is no distribution."""
        return (self.paired.sum(-1) > 1).any(-1).sum()


def pair_kl(pairs: Pairs, temperature: float) -> Float[Tensor, "position"]:
    """Half the sum of both lists' KL(teacher || student), each list made a distribution.

    A list of one pair, or of none, has nothing to compare: zero.
    """
    least = torch.finfo(pairs.student.dtype).min / 4
    logs = [
        torch.where(pairs.paired, values / temperature, least).log_softmax(-1)
        for values in (pairs.teacher.detach(), pairs.student)
    ]
    terms = logs[0].exp() * (logs[0] - logs[1])
    return torch.where(pairs.paired, terms, 0).sum(-1).mean(-1)


def stored_kl(pairs: Pairs, temperature: float) -> Float[Tensor, "position"]:
    """As stored: the mean over both lists' entries of p (τ² log p - log q), one softmax over both.

    The target p is the teacher's list beside the student's own, the prediction q the student's
    partners beside the teacher's: in the second list the roles are swapped. The temperature τ
    divides the prediction alone, so it is no divergence unless τ is 1, and gradients reach the
    target.

    Args:
        pairs: logits.
        temperature: τ.
    """
    first, second = pairs.paired.unbind(1)
    target = _joined(pairs.teacher[:, 0], first, pairs.student[:, 1], second)
    prediction = _joined(pairs.student[:, 0], first, pairs.teacher[:, 1], second)
    log_target = target.log_softmax(-1)
    log_prediction = (prediction / temperature).log_softmax(-1)
    return (log_target.exp() * (temperature**2 * log_target - log_prediction)).mean(-1)


def _joined(
    first: Float[Tensor, "position k"],
    first_paired: Bool[Tensor, "position k"],
    second: Float[Tensor, "position k"],
    second_paired: Bool[Tensor, "position k"],
) -> Float[Tensor, "position two_k"]:
    lists = (torch.where(first_paired, first, MISSING), torch.where(second_paired, second, MISSING))
    return torch.cat(lists, dim=-1)
