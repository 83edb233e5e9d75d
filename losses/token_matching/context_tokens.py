"""CDM's signal: each row's most likely tokens, and its entropy, by which its token weighs."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt16
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from losses.chunk_distributions.top_tokens import Precision, top_tokens_and
from losses.prediction import Prediction
from losses.signals import Signal, TopTokens, pack

LEAST = -1e4
"""A log-probability (nats) below which a token is impossible."""


@dataclass(frozen=True)
class ContextTokens(TopTokens):
    """The likeliest tokens and the entropy (nats) of each row: 6k + 20 bytes a token."""

    entropy: Float32[np.ndarray, "row"]


@dataclass(frozen=True)
class ContextLogits(ContextTokens):
    """The same with what log-probabilities lack to be the model's logits: 4 bytes more."""

    normaliser: Float32[np.ndarray, "row"]


@dataclass(frozen=True)
class Matchable(Signal):
    """What the teacher sent, and how far each of its tokens is from each of the student's."""

    sent: ContextTokens
    cost: UInt16[np.ndarray, "teacher_token student_token"]

    @property
    def byte_ends(self) -> Int64[np.ndarray, "token"]:
        """The teacher's, see ``TopTokens``."""
        return self.sent.byte_ends.astype(np.int64)

    @property
    def logprob(self) -> Float32[np.ndarray, "token"]:
        """The teacher's, see ``TopTokens``."""
        return self.sent.logprob


def context_tokens(teacher: Prediction, k: int, precision: Precision) -> ContextTokens:
    """The signal of the rows that predict a scored token."""
    top, entropy = top_tokens_and(teacher, k, entropies, temperature=1.0, precision=precision)
    return ContextTokens(**vars(top), entropy=pack(entropy.squeeze(-1).float()))


def context_logits(teacher: Prediction, k: int, precision: Precision) -> ContextLogits:
    """The signal of the rows that follow a scored token, as published."""
    top, entropy = top_tokens_and(
        teacher, k, entropies, temperature=1.0, precision=precision, after=True
    )
    with torch.no_grad():
        normaliser = normalisers(teacher, teacher.scored_positions)
    return ContextLogits(
        **vars(top),
        entropy=pack(entropy.squeeze(-1).float()),
        normaliser=pack(normaliser.float()),
    )


def entropies(logprobs: Float[Tensor, "row vocab"]) -> Float[Tensor, "row 1"]:
    """Entropy (nats) of each row; an impossible token adds nothing."""
    finite = logprobs.clamp(min=LEAST)
    negative: Tensor = torch.linalg.vecdot(finite.exp(), finite)
    return -negative.unsqueeze(-1)


def normalisers(side: Prediction, positions: Int64[Tensor, "row"]) -> Float[Tensor, "row"]:
    """The log of each row's summed exponentials: logits less log-probabilities."""

    def read(hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row"]:
        return side.head.logits(hidden).logsumexp(-1)

    parts = positions.split(side.chunk_size)
    return torch.cat([checkpoint(read, side.hidden[rows], use_reentrant=False) for rows in parts])
