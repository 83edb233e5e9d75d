"""Ensembles in the student's vocabulary: full next-token distributions, then ``kl``.

Teachers with the student's vocabulary come as they are, others through W⁻. No table of the
vocabulary is made ahead of the step: members are rebuilt from their hidden states and mixed row
chunk by row chunk, inside the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.document import Document
from losses.ensembles.ensemble import Ensemble, EnsemblePair, Said
from losses.ensembles.projected import MemberTargets
from losses.ensembles.states import MixedStates, mixed_states
from losses.methods.kl import Kl
from losses.mixture.targets import Mean, combine_logprobs
from losses.prediction import Prediction
from losses.signals import HiddenStates, IdentifiedStates, Signal, expect


@dataclass(frozen=True, config=OPTIONS)
class EnsembleKl(Method):
    """``kl`` whose target is the mean of several teachers' distributions over student tokens.

    Args:
        kl: the method of all members.
        mean: arithmetic or geometric.
    """

    unit: ClassVar[str] = "tokens"
    bytes_per_token: ClassVar[str] = Kl.bytes_per_token
    needs_teacher_head: ClassVar[bool] = True

    kl: Kl
    mean: Mean

    @property
    def zero_at_identity(self) -> bool:
        return True

    def signal(self, teacher: Prediction, document: Document) -> IdentifiedStates:
        return self.kl.signal(teacher, document)

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        if isinstance(signal, HiddenStates):  # one teacher with the student's tokens
            return self.kl.loss(student, signal, pair, modules)
        mixed = expect(signal, MixedStates)
        with torch.no_grad():
            members = self._members(mixed, pair, student.device)

        def rows(
            logprobs: Float[Tensor, "row vocab"], numbers: Int64[Tensor, "row"]
        ) -> Float[Tensor, "row"]:
            with torch.no_grad():
                target = self._mixed(members, numbers, logprobs)
            return self.kl.compare(target, logprobs)

        positions = torch.from_numpy(mixed.positions).to(student.device)
        numbers = torch.arange(len(positions), device=student.device)
        total = student.map_rows(rows, positions - 1, numbers).sum()
        return LossTerm(total=self.kl.factor * total, units=len(positions))

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return len(expect(signal, MixedStates).positions)

    def _members(self, mixed: MixedStates, pair: Pair, device: torch.device) -> list[MemberTargets]:
        if not isinstance(pair, EnsemblePair):
            raise ValueError("an ensemble reads the pairs of its members; pass an EnsemblePair")
        realised = torch.from_numpy(mixed.realised).to(device)
        return [
            MemberTargets(rows, pair.members[rows.member], realised, self.kl.temperature)
            for rows in mixed.members
        ]

    def _mixed(
        self,
        members: Sequence[MemberTargets],
        numbers: Int64[Tensor, "row"],
        like: Float[Tensor, "row vocab"],
    ) -> Float[Tensor, "row vocab"]:
        present = torch.stack([member.row[numbers] >= 0 for member in members])
        stack = like.new_zeros(len(members), *like.shape)
        for place, (member, there) in enumerate(zip(members, present, strict=True)):
            if bool(there.any()):
                stack[place, there] = member.logprobs(numbers[there]).to(like)
        weights = torch.tensor([m.weight for m in members], dtype=torch.float64, device=like.device)
        return combine_logprobs(stack, weights, present, self.mean)


@plain_dataclass(frozen=True)
class VocabularyEnsemble(Ensemble):
    """The mean of the members' distributions over the student's tokens.

    A member whose tokens have no border where the student predicts leaves its weight to the others;
    a row where none has one does not count.

    Args:
        kl: the method of all members.
        mean: arithmetic or geometric.
    """

    kl: Kl
    mean: Mean

    @property
    def method(self) -> EnsembleKl:
        return EnsembleKl(self.kl, self.mean)

    def check(self, pair: Pair) -> None:
        if not pair.has_one_vocabulary and self._is_reverse:
            raise ValueError(
                f'option "divergence" = {self.kl.divergence} would be infinite: this teacher has '
                "another vocabulary, and W⁻ gives some student tokens no probability; use forward, "
                "js with beta below 1, tvd, or skewed_reverse with skew above 0"
            )

    @property
    def _is_reverse(self) -> bool:
        """True if student mass where the target has none costs without bound."""
        kl = self.kl
        limits = (
            kl.divergence == "js" and kl.beta == 1,
            kl.divergence == "skewed_reverse" and kl.skew == 0,
        )
        return kl.divergence in ("reverse", "adaptive") or any(limits)

    def combined(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        said: Sequence[Said],
        student: Vocabulary,
    ) -> Signal:
        return mixed_states(tokens, scored, said)
