"""One member's distributions over the student's tokens, through W⁻.

W⁻ is W with the roles swapped: it spreads each of the teacher's tokens over student tokens. The
realised chunk is taken apart as in ``p_kl``: its joint probability goes whole to the student token
that it begins with, is taken out of the teacher's first token, and only the rest goes through W⁻.
So a teacher that writes ``2``, ``0``, ``1`` teaches ``201`` to a student that writes it as one.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.alignment.projection import Projection
from losses.base import Pair
from losses.ensembles.states import MemberRows
from losses.prediction import ELEMENTS_IN_MEMORY, Head, gather
from losses.signals import unpack


class MemberTargets:
    """What a member says at the student's rows; no gradients.

    Args:
        rows: the member's states and where they belong.
        pair: the student's and the member's vocabularies, its head, and W⁻ unless they are equal.
        realised: the student's realised token of each row.
        temperature: divides the member's logits.

    Raises:
        ValueError: the head or W⁻ is missing.
    """

    def __init__(
        self, rows: MemberRows, pair: Pair, realised: Int64[Tensor, "row"], temperature: float
    ) -> None:
        device = realised.device
        self.weight = rows.weight
        self.row = torch.from_numpy(rows.row).to(device)
        self._head, self._projection = _head(pair), _projection(pair)
        self._temperature = temperature
        self._hidden = unpack(rows.hidden).to(device)
        self._begun = torch.from_numpy(rows.begun).to(device)
        self._realised = realised
        self._rest = self._hidden.new_zeros(0)
        if self._projection is not None:
            self._rest = self._finishing(rows)

    def logprobs(self, numbers: Int64[Tensor, "row"]) -> Float[Tensor, "row vocab"]:
        """Log-probabilities (nats) of student tokens at these rows, which the member speaks for."""
        parts = numbers.split(self._rows_at_once)
        return torch.cat([self._over_student_tokens(part) for part in parts])

    @property
    def _rows_at_once(self) -> int:
        return max(1, ELEMENTS_IN_MEMORY // self._head.num_valid)

    def _own(self, states: Int64[Tensor, "row"]) -> Float[Tensor, "row own_vocab"]:
        logits = self._head.logits(self._hidden[states])
        return torch.log_softmax(logits / self._temperature, dim=-1)

    def _finishing(self, rows: MemberRows) -> Float[Tensor, "row"]:
        """Log-probability (nats) with which the member finishes each chunk as it began."""
        states, ids, at = (
            torch.from_numpy(array).to(self.row.device).split(self._rows_at_once)
            for array in (rows.later, rows.later_ids, rows.later_row)
        )
        logs = [gather(self._own(s), i) for s, i in zip(states, ids, strict=True)]
        values = torch.cat(logs)
        return values.new_zeros(len(self.row)).index_add(0, torch.cat(at), values)

    def _over_student_tokens(self, numbers: Int64[Tensor, "row"]) -> Float[Tensor, "row vocab"]:
        own = self._own(self.row[numbers])
        if self._projection is None:
            return own
        begun, realised = self._begun[numbers].unsqueeze(-1), self._realised[numbers].unsqueeze(-1)
        rest = self._rest[numbers].unsqueeze(-1)
        probs = own.exp()
        first = probs.gather(-1, begun)
        probs = probs.scatter(-1, begun, -first * torch.expm1(rest))
        spread = torch.sparse.mm(spreading(self._projection, probs.device, probs.dtype), probs.T).T
        spread = spread.scatter_add(-1, realised, first * rest.exp())
        logprobs: Tensor = (spread / spread.sum(-1, keepdim=True)).log()
        return logprobs


@lru_cache(maxsize=8)
def spreading(
    projection: Projection, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "student_vocab own_vocab"]:
    """W⁻ transposed, sparse: a member's probabilities to those of student tokens."""
    places = np.stack([projection.teacher_ids, projection.student_ids])
    size = (projection.num_teacher, projection.num_student)
    weights = torch.from_numpy(projection.weights).to(device, dtype)
    indices = torch.from_numpy(places).to(device)
    matrix = torch.sparse_coo_tensor(indices, weights, size, check_invariants=False)
    coalesced: Tensor = matrix.coalesce()
    return coalesced


def _head(pair: Pair) -> Head:
    if pair.teacher_head is None:
        raise ValueError(
            "an ensemble in the student's vocabulary rebuilds its members' distributions; pass "
            "each member's Pair.teacher_head"
        )
    return pair.teacher_head


def _projection(pair: Pair) -> Projection | None:
    """W⁻; None for a member with the student's vocabulary.

    Raises:
        ValueError: it is missing, or that of other vocabularies.
    """
    if pair.has_one_vocabulary:
        return None
    if pair.projection is None:
        raise ValueError(
            "a member of an ensemble in the student's vocabulary has another vocabulary; pass its "
            "W⁻ as Pair.projection"
        )
    found = (pair.projection.num_student, pair.projection.num_teacher)
    if found != (len(pair.teacher), len(pair.student)):
        raise ValueError(
            f"W⁻ is {found[0]} x {found[1]}; expected the teacher's {len(pair.teacher)} ids by the "
            f"student's {len(pair.student)}: build it with the roles swapped"
        )
    return pair.projection
