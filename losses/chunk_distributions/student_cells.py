"""The student's masses on the teacher tokens that the teacher listed, through W.

A row's cells are the listed teacher tokens, the realised chunk and everything else, and the
student's masses on them sum to one. Only the listed columns of W are read; nothing has the size
of the teacher's vocabulary. W's weights lie on a grid on which sums are exact, so that a row of W
that is listed whole leaves nothing.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.chunk_distributions.columns import Columns
from losses.chunk_distributions.entries import Entries, entries_of
from losses.chunk_distributions.teacher_cells import Starts


class StudentBlock:
    """A few first rows of chunks, and the gradient of what was made of them.

    A chunk takes its joint probability out of its first token; what is left of that token, and
    all other tokens, go through W to the listed teacher tokens or past them.

    Args:
        probs: the student's rows that predict the chunks' first tokens; changed in place.
        after_first: log-probability that the student goes on to finish the chunk; 0 for one
            student token.
        weights: W's entries, in the order of ``columns``.
        columns: which entries there are.
        starts: how the chunks start.
        teacher: the teacher's log-masses on the cells.
    """

    def __init__(
        self,
        probs: Float[Tensor, "row vocab"],
        after_first: Float[Tensor, "row"],
        weights: Float[Tensor, "w_entry"],
        columns: Columns,
        starts: Starts,
        teacher: Float[Tensor, "row cells"],
    ) -> None:
        self.starts, self.teacher = starts, teacher
        self._realised = starts.realised.unsqueeze(-1)
        self._first = probs.gather(-1, self._realised).squeeze(-1)
        # single chunks leave their first token whole
        self._finished = torch.where(starts.single, 0, after_first.exp())
        self._unfinished = torch.where(starts.single, 1, -torch.expm1(after_first))
        left_of_first = (self._first * self._unfinished).unsqueeze(-1)
        self.probs = probs.scatter_(-1, self._realised, left_of_first)
        """Each row's probabilities without its chunk."""
        self._entries = entries_of(starts.ids, weights, columns)
        self.cells = self._cells(self._entries, starts.ids.shape[1]).requires_grad_()
        """Masses: listed teacher tokens, the realised chunk, everything else."""
        self._asked: list[tuple[Tensor, Tensor]] = []

    def masses(self, ids: Int64[Tensor, "row entry"]) -> Float[Tensor, "row entry"]:
        """Masses of some student tokens, without the chunk; each token once at most."""
        found = self.probs.gather(-1, ids).requires_grad_()
        self._asked.append((ids, found))
        return found

    def gradients(
        self, total: Float[Tensor, ""], to_weights: Float[Tensor, "w_entry"] | None
    ) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row"]]:
        """Of a total, to the log-probabilities and to ``after_first``; call once.

        Args:
            total: made of ``cells`` and ``masses``.
            to_weights: the gradient to W's weights is added here.
        """
        leaves = [self.cells, *(masses for _, masses in self._asked)]
        to_cells, *to_masses = torch.autograd.grad(total, leaves)
        if to_weights is not None:
            self._add_to_weights(to_weights, to_cells)
        to_rest = to_cells[:, -1:]
        to_probs = to_rest.expand_as(self.probs).contiguous()
        to_listed = (to_cells[:, :-2] - to_rest).flatten()
        to_entry = to_listed.index_select(0, self._entries.cell).mul_(self._entries.weight)
        to_probs.view(-1).index_add_(0, self._entries.source, to_entry)
        for (ids, _), gradient in zip(self._asked, to_masses, strict=True):
            to_probs.scatter_add_(-1, ids, gradient)
        return self._through_first(to_probs, to_cells)

    def _cells(self, entries: Entries, num_listed: int) -> Float[Tensor, "row cells"]:
        listed = entries.masses(self.probs, num_listed)
        chunk = self._first * self._finished
        listed[:, 0] += torch.where(self.starts.merged, chunk, 0)
        chunk = torch.where(self.starts.merged, 0, chunk)
        left = torch.ones_like(self.probs)
        left.view(-1).index_add_(0, entries.source, entries.weight, alpha=-1)
        rest = torch.linalg.vecdot(self.probs, left)
        return torch.cat([listed, chunk.unsqueeze(-1), rest.unsqueeze(-1)], dim=-1)

    def _through_first(
        self, to_probs: Float[Tensor, "row vocab"], to_cells: Float[Tensor, "row cells"]
    ) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row"]]:
        to_chunk = torch.where(self.starts.merged, to_cells[:, 0], to_cells[:, -2])
        to_first = to_probs.gather(-1, self._realised).squeeze(-1)
        to_after = self._first * self._finished * (to_chunk - to_first)
        to_after = torch.where(self.starts.single, 0, to_after)
        to_first = self._first * (to_first * self._unfinished + to_chunk * self._finished)
        to_probs.mul_(self.probs).scatter_(-1, self._realised, to_first.unsqueeze(-1))
        return to_probs, to_after

    def _add_to_weights(
        self, to_weights: Float[Tensor, "w_entry"], to_cells: Float[Tensor, "row cells"]
    ) -> None:
        """What an entry takes to its cell is missing in the rest."""
        to_listed = (to_cells[:, :-2] - to_cells[:, -1:]).flatten()
        mass = self.probs.view(-1).index_select(0, self._entries.source)
        gradient = to_listed.index_select(0, self._entries.cell).mul_(mass)
        to_weights.index_add_(0, self._entries.number, gradient)
