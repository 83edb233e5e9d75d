"""Entropic optimal transport by Sinkhorn's iterations, in the logarithm, where nothing underflows.

Source: Cuturi 2013, arXiv:1306.0895.
"""

import math

from jaxtyping import Float
from torch import Tensor


def transport_cost(
    cost: Float[Tensor, "n m"], epsilon: float, iterations: int, *, masses_of_one: bool = False
) -> Float[Tensor, ""]:
    """What it costs to move n points onto m, by the plan after so many iterations.

    Args:
        cost: of moving each point onto each other.
        epsilon: weight of the plan's entropy; small is sharp, and slow to settle.
        iterations: alternations of the two normalisations; the second one holds exactly.
        masses_of_one: give each point a mass of 1 (published), not 1 / n and 1 / m; of no use
            where n and m differ, since no plan has both.

    >>> import torch
    >>> apart = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> round(transport_cost(apart, 0.1, 10).item(), 6)
    4.5e-05
    """
    n, m = cost.shape
    rows, columns = (0.0, 0.0) if masses_of_one else (-math.log(max(n, 1)), -math.log(max(m, 1)))
    kernel = -cost / epsilon
    right = cost.new_zeros(m)
    left = cost.new_zeros(n)
    for _ in range(iterations):
        left = rows - (kernel + right).logsumexp(1)
        right = columns - (kernel + left[:, None]).logsumexp(0)
    plan = (kernel + left[:, None] + right).exp()
    return (plan * cost).sum()
