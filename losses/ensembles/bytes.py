"""Ensembles in bytes: next-byte distributions share one axis whatever the tokenizers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.ensembles.ensemble import Ensemble, Said, weights_of
from losses.methods.bld import Bld
from losses.mixture.targets import Mean, combine_logprobs
from losses.signals import ByteDistributions, Signal, expect


@dataclass(frozen=True)
class ByteEnsemble(Ensemble):
    """The mean of the members' next-byte distributions, position by position.

    A member without a row at a byte leaves its weight to the others.

    Args:
        bld: the method of all members.
        mean: arithmetic or geometric.

    Raises:
        ValueError: an option of ``bld`` has no meaning for several teachers.
    """

    bld: Bld
    mean: Mean

    def __post_init__(self) -> None:
        if self.bld.converter == "eot":
            raise ValueError(
                'option "converter" = eot also tells where each teacher\'s own tokens end, which '
                "teachers do not share; use branches, on_path, one_path or beam"
            )

    @property
    def method(self) -> Bld:
        return self.bld

    def check(self, pair: Pair) -> None:
        self.bld.check(pair)

    def combined(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        said: Sequence[Said],
        student: Vocabulary,
    ) -> Signal:
        return mixed_bytes([expect(s.signal, ByteDistributions) for s in said], said, self.mean)


def mixed_bytes(
    members: Sequence[ByteDistributions], said: Sequence[Said], mean: Mean
) -> ByteDistributions:
    """The mean of byte distributions; there is a row wherever a member has one."""
    positions = np.unique(np.concatenate([one.positions for one in members])).astype(np.int32)
    stack = torch.zeros(len(members), len(positions), members[0].logprobs.shape[1])
    present = torch.zeros(len(members), len(positions), dtype=torch.bool)
    for place, one in enumerate(members):
        rows = torch.from_numpy(np.searchsorted(positions, one.positions))
        stack[place, rows] = torch.from_numpy(one.logprobs.astype(np.float32))
        present[place, rows] = True
    mixed = combine_logprobs(stack, weights_of(said), present, mean)
    return ByteDistributions(positions, mixed.numpy().astype(np.float16))
