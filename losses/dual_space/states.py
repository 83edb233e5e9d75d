"""What the teacher sends for dual-space distillation."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped

from losses.alignment.live import known_tokens
from losses.alignment.tokens import byte_starts
from losses.prediction import Prediction
from losses.signals import HiddenStates, pack


@dataclass(frozen=True)
class EmbeddedStates(HiddenStates):
    """Hidden states with the input embeddings of the tokens that they read and predict.

    ``embeddings`` are those of the tokens at ``positions`` and one after, each once, in order.
    """

    embeddings: Shaped[np.ndarray, "used width"]


def hidden_states(teacher: Prediction) -> HiddenStates:
    """The states that predict a scored token."""
    positions = teacher.scored_positions - 1
    return HiddenStates(
        byte_ends=teacher.tokens.byte_ends.astype(np.int32),
        positions=pack(positions.to(torch.int32)),
        hidden=pack(teacher.hidden[positions]),
    )


def embedded_states(teacher: Prediction) -> EmbeddedStates:
    """The same with embeddings."""
    found = hidden_states(teacher)
    used = torch.from_numpy(used_tokens(found)).to(teacher.device)
    embeddings = pack(teacher.embeddings(used))
    return EmbeddedStates(found.byte_ends, found.positions, found.hidden, embeddings)


def used_tokens(states: HiddenStates) -> Int64[np.ndarray, "used"]:
    """Positions of the tokens that some state reads or predicts, ascending."""
    return np.union1d(states.positions, states.positions + 1).astype(np.int64)


def predicted(states: HiddenStates) -> Bool[np.ndarray, "teacher_token"]:
    """True for a token that a state predicts."""
    return known_tokens(len(states.byte_ends), states.positions + 1)


def starts(
    byte_ends: Int64[np.ndarray, "token"], positions: Int64[np.ndarray, "row"]
) -> Int64[np.ndarray, "row"]:
    """How many bytes are read before the token that the row at each position predicts.

    >>> starts(np.array([-1, 2, 5]), np.array([0, 1])).tolist()
    [0, 2]
    """
    found: Int64[np.ndarray, "row"] = byte_starts(byte_ends)[positions + 1]
    return found
