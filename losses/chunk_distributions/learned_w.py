"""A W that is trained together with the student.

Source: X-Token, arXiv:2605.21699: W is learned jointly under P-KL and held fixed under H-KL.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from losses.chunk_distributions.columns import GRID, Columns


class LearnedWeights(nn.Module):
    """W's non-zeros as log-weights, softmax by student token; starts at W.

    Called as a module, so that ZeRO-3 can gather its parameter.
    """

    heaviest: Tensor
    """True for one entry of each row, its heaviest at the start."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(columns.weights.log().float())
        students = columns.students.long()
        largest = columns.weights.new_zeros(columns.num_student)
        largest = largest.scatter_reduce(0, students, columns.weights, "amax")
        first = torch.full((columns.num_student,), len(students))
        places = torch.arange(len(students))
        best = columns.weights == largest[students]
        first = first.scatter_reduce(0, students[best], places[best], "amin")
        heaviest = first[students] == places
        self.register_buffer("heaviest", heaviest, persistent=False)

    def forward(self, columns: Columns) -> Float[Tensor, "entry"]:
        """The entries' weights, in the order of the columns, in float32 or finer."""
        students = columns.students.long()
        logs = self.log_weights.to(torch.promote_types(self.log_weights.dtype, torch.float32))
        largest = logs.new_full((columns.num_student,), -torch.inf)
        largest = largest.scatter_reduce(0, students, logs.detach(), "amax")
        exponentials = (logs - largest[students]).exp()
        sums = logs.new_zeros(columns.num_student).index_add(0, students, exponentials)
        weights = exponentials / sums[students]
        return weights + (self._on_grid(weights.detach(), students) - weights.detach())

    def _on_grid(
        self, weights: Float[Tensor, "entry"], students: Int64[Tensor, "entry"]
    ) -> Float[Tensor, "entry"]:
        """The weights on the grid, each row's sum exactly one; its first entry takes what lacks."""
        rounded = (weights / GRID).round() * GRID
        sums = weights.new_zeros(int(students.max()) + 1).index_add(0, students, rounded)
        return rounded + torch.where(self.heaviest, 1 - sums[students], 0)
