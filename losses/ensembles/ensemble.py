"""What an ensemble of targets is: what several teachers say becomes what one teacher would say."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Method, Pair
from losses.signals import Signal


@dataclass(frozen=True)
class EnsemblePair(Pair):
    """The student and an ensemble, whose vocabulary stands for none; ``members`` are its own pairs.

    Where targets meet in the student's vocabulary, a member's ``projection`` is W⁻: each of the
    teacher's tokens as student tokens. None is a teacher that has the student's vocabulary.
    """

    members: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Said:
    """What one member says about a document.

    Args:
        member: its place in the ensemble.
        weight: its weight on this document, above 0; only the proportions count.
        signal: what the method of all members made of its prediction.
    """

    member: int
    weight: float
    signal: Signal


class Ensemble(ABC):
    """The mean of several teachers' targets in one space: bytes, chunks or the student's tokens."""

    @property
    @abstractmethod
    def method(self) -> Method:
        """The method whose ``loss`` and ``num_units`` read what ``combined`` gives."""

    @abstractmethod
    def check(self, pair: Pair) -> None:
        """Raise ValueError if a teacher of this pair of vocabularies cannot be a member."""

    @abstractmethod
    def combined(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        said: Sequence[Said],
        student: Vocabulary,
    ) -> Signal:
        """One signal on a document; at the student, without gradients, like ``Method.ahead``.

        Args:
            tokens: the student's tokens of the document.
            scored: the student's tokens that count.
            said: one member at least; those that do not read the document are not in it.
            student: the student's vocabulary.
        """


def weights_of(said: Sequence[Said]) -> Float[Tensor, "member"]:
    """The members' weights."""
    return torch.tensor([one.weight for one in said], dtype=torch.float64)
