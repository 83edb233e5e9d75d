"""Sorted remainders: what has no partner on the other side, and for ULD everything.

Only entries at least as large as all that the teacher left out are compared one by one. All
others, and matched tokens that the teacher did not list, are one lump on each side.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from losses.chunk_distributions.matched import Matched
from losses.chunk_distributions.sorted_masses import descending, descending_ids, sorted_l1
from losses.chunk_distributions.teacher_cells import Starts

LONE_CELLS = 3
"""The first token, the chunk and everything else: cells of a row that lists no others."""
SHAPELESS = 1e-12
"""A student's remainder this small has no shape that could be scaled up and compared."""


@dataclass(frozen=True)
class Remainder:
    """What the teacher has without partners, sorted.

    Args:
        entries: its largest masses without partners, the largest first; 0 pads.
        count: how many there are.
        lump: mass that is neither there nor has a partner.
    """

    entries: Float[Tensor, "row entry"]
    count: Int64[Tensor, "row"]
    lump: Float[Tensor, "row"]

    @property
    def mass(self) -> Float[Tensor, "row"]:
        """All of it; matched tokens that the teacher did not list are counted in."""
        return self.entries.sum(-1) + self.lump

    @property
    def fields(self) -> tuple[Tensor, ...]:
        """All fields, to be cut to the rows at hand."""
        return self.entries, self.count, self.lump


@torch.no_grad()
def remainder(
    logs: Float[Tensor, "row entry"],
    alone: Bool[Tensor, "row entry"],
    tail: Float[Tensor, "row"],
    least: Float[Tensor, "row"],
) -> Remainder:
    """The teacher's side.

    Args:
        logs: log-masses in nats.
        alone: entries without a partner.
        tail: log-mass that is not listed.
        least: no token that is not listed has a larger log-mass.
    """
    kept = alone & (logs >= least.unsqueeze(-1))
    masses = logs.exp()
    lump = tail.exp() + torch.where(alone & ~kept, masses, 0).sum(-1)
    count = kept.sum(-1)
    width = int(count.max()) if len(count) else 0
    return Remainder(descending(torch.where(kept, masses, 0))[:, :width], count, lump)


@torch.no_grad()
def teacher_remainder(
    teacher: Float[Tensor, "row cells"], starts: Starts, matched: Matched
) -> Remainder:
    """The part of the teacher's cells without partners.

    A first token that is the whole chunk has the chunk as its partner.
    """
    has_partner = matched.is_matched(starts.ids.long())
    has_partner[:, 0] |= starts.merged
    return remainder(teacher[:, :-2], ~has_partner, teacher[:, -1], least_listed(teacher))


@torch.no_grad()
def least_listed(teacher: Float[Tensor, "row cells"]) -> Float[Tensor, "row"]:
    """The least log-mass of the listed others; -inf where everything is listed."""
    if teacher.shape[1] == LONE_CELLS:  # nothing but the realised token
        return torch.where(teacher[:, -1] > -torch.inf, torch.inf, -torch.inf)
    return torch.where(teacher[:, -1] > -torch.inf, teacher[:, 1:-2].amin(-1), -torch.inf)


@torch.no_grad()
def largest_unmatched(
    values: Float[Tensor, "row vocab"], matched: Matched, n: int
) -> Int64[Tensor, "row entry"]:
    """The student tokens without partners with the ``n`` largest values (or all), sorted."""
    others = matched.other_students
    return others[descending_ids(values.index_select(-1, others), n)]


def remainder_l1(
    teacher: Remainder,
    student: Float[Tensor, "row entry"],
    rest: Float[Tensor, "row"],
    *,
    relative: bool,
) -> Float[Tensor, "row"]:
    """L1 of the sorted remainders.

    Args:
        teacher: the teacher's remainder.
        student: the student's sorted masses without partners.
        rest: all of the student's mass outside the cells that have a partner.
        relative: scale the student's remainder to the teacher's first, so that only the shapes
            are compared; the other part of the loss already compares the sums.
    """
    width = min(student.shape[1], teacher.entries.shape[1])
    ranks = torch.arange(student.shape[1], device=student.device)
    listed = torch.where(ranks < teacher.count.unsqueeze(-1), student, 0)[:, :width]
    lump = (rest - listed.sum(-1)).clamp(min=0)
    if relative:
        shaped = rest > SHAPELESS
        ratio = teacher.mass / torch.where(shaped, rest, 1)
        listed, lump = listed * ratio.unsqueeze(-1), lump * ratio
        values = sorted_l1(teacher.entries, listed, teacher.lump, lump)
        return torch.where(shaped, values, 0)
    return sorted_l1(teacher.entries, listed, teacher.lump, lump)
