"""The teacher's half: its likely tokens, and how sure it is of each row."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from losses.chunk_distributions.top_tokens import Precision, top_tokens_and
from losses.prediction import Prediction
from losses.signals import TopTokens, pack

LEAST = -1e3
"""A log-probability (nats) that is zero as a probability."""


@dataclass(frozen=True)
class TopTokensWithEntropy(TopTokens):
    """Likely tokens, and two numbers of each row: 6k + 24 bytes a token in 16 bits.

    ``entropy`` (nats) is that of the whole row. ``level`` (nats) is what the row's logits lie
    above its log-probabilities; zero if it was not asked for.
    """

    entropy: Float32[np.ndarray, "row"]
    level: Float32[np.ndarray, "row"]


def top_tokens_with_entropy(
    teacher: Prediction, k: int, *, precision: Precision, levels: bool
) -> TopTokensWithEntropy:
    """The signal.

    Args:
        teacher: the model's prediction of the document.
        k: tokens listed beside the realised one, at most.
        precision: of the listed log-probabilities.
        levels: also tell the logits' level, which takes another pass through the head.
    """
    top, entropy = top_tokens_and(teacher, k, _entropy, temperature=1.0, precision=precision)
    level = np.zeros(len(entropy), dtype=np.float32)
    if levels:
        with torch.no_grad():
            level = pack(logit_levels(teacher, teacher.scored_positions - 1).float())
    return TopTokensWithEntropy(
        byte_ends=top.byte_ends,
        logprob=top.logprob,
        others=top.others,
        tail=top.tail,
        realised=top.realised,
        ids=top.ids,
        entropy=pack(entropy.squeeze(-1).float()),
        level=level,
    )


def logit_levels(prediction: Prediction, positions: Int64[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Log-sum-exp of each row's logits: the logits are the log-probabilities plus this."""

    def compute(hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row"]:
        return prediction.head.logits(hidden).logsumexp(-1)

    chunks = [prediction.hidden[rows] for rows in positions.split(prediction.chunk_size)]
    if len(chunks) == 1:
        return compute(chunks[0])
    return torch.cat([checkpoint(compute, hidden, use_reentrant=False) for hidden in chunks])


def _entropy(logprobs: Float[Tensor, "row vocab"]) -> Float[Tensor, "row 1"]:
    """An impossible token adds nothing."""
    return -logprobs.exp().mul_(logprobs.clamp(min=LEAST)).sum(-1, keepdim=True)
