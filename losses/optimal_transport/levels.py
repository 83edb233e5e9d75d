"""The three levels of MultiLevelOT on one document: tokens, logarithms, the whole sequence.

As published, the logarithmic term takes a second softmax of what are probabilities already and
has the student for its target, rows beyond a shorter side are zeros, and the plan between the
sequences gives each row a mass of one. Here the listed tokens and all others as one are a
distribution, the teacher's is the target, and both sequences have a mass of one.

Source: MultiLevelOT, Cui et al. 2025, arXiv:2412.14528, sections 3.2 and 3.3.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from losses.chunk_distributions.cell_divergence import cell_kl
from losses.optimal_transport.sinkhorn import transport_cost

SEQUENCE_TEMPERATURE = 2.0
"""Of the published second softmax in front of the plan."""
SEQUENCE_FACTOR = 1e-3
"""The published code's factor of the sequence's cost."""


@dataclass(frozen=True)
class Weights:
    """Weights of the levels beside the first one's, and the plan's settings."""

    logarithmic: float
    sequence: float
    epsilon: float
    iterations: int


class RowPairs(NamedTuple):
    """Numbers of rows that are compared one by one."""

    student: Int64[Tensor, "pair"]
    teacher: Int64[Tensor, "pair"]


def levels(
    teacher: Float[Tensor, "teacher_row k"],
    student: Float[Tensor, "student_row k"],
    pairs: RowPairs,
    weights: Weights,
) -> Float[Tensor, ""]:
    """The sum over the pairs, the sequence's cost counted once for each of them.

    Args:
        teacher: probabilities of the listed tokens in each of its rows.
        student: of as many tokens.
        pairs: rows that are compared.
        weights: of the levels.
    """
    theirs, ours = with_rest(teacher), with_rest(student)
    ours_paired, theirs_paired = ours[pairs.student], theirs[pairs.teacher]
    total = (ours_paired - theirs_paired).abs().sum()
    if weights.logarithmic:
        logs = theirs_paired.log()
        total = total + weights.logarithmic * cell_kl(logs, ours_paired, "forward").sum()
    if weights.sequence and len(pairs.student):
        cost = transport_cost(torch.cdist(theirs, ours, p=1), weights.epsilon, weights.iterations)
        total = total + weights.sequence * len(pairs.student) * cost
    return total


def with_rest(listed: Float[Tensor, "row k"]) -> Float[Tensor, "row cells"]:
    """The listed probabilities and, last, that of all others.

    >>> with_rest(torch.tensor([[0.5, 0.25]])).tolist()
    [[0.5, 0.25, 0.25]]
    """
    rest = (1 - listed.sum(-1, keepdim=True)).clamp(min=0)
    return torch.cat([listed, rest], dim=-1)


def published_levels(
    teacher: Float[Tensor, "teacher_row teacher_k"],
    student: Float[Tensor, "student_row student_k"],
    weights: Weights,
) -> Float[Tensor, ""]:
    """The published mean over the document, times the rows that both sides have."""
    count = min(len(teacher), len(student))
    if not count:
        return 0 * student.sum()
    rows, k = max(len(teacher), len(student)), max(teacher.shape[1], student.shape[1])
    theirs, ours = (
        pad(table, (0, k - table.shape[1], 0, rows - len(table))) for table in (teacher, student)
    )
    tokens = (ours[:count] - theirs[:count]).abs().sum(-1).mean()
    logs = -(ours.softmax(-1) * theirs.log_softmax(-1)).sum(-1).mean()
    cost = torch.cdist(
        (theirs / SEQUENCE_TEMPERATURE).softmax(-1), (ours / SEQUENCE_TEMPERATURE).softmax(-1), p=1
    )
    sequence = transport_cost(cost, weights.epsilon, weights.iterations, masses_of_one=True)
    mean = tokens + weights.logarithmic * logs
    return count * (mean + weights.sequence * SEQUENCE_FACTOR * sequence)
