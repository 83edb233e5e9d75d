"""Whether what a teacher says of a document is made of numbers."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from losses.prediction import Prediction
from losses.signals import Signal

PER_TOKEN = ("logprob", "border_logprob")
"""Fields in which NaN stands for a token that says nothing."""

HIDDEN = "hidden"
"""Looked at before anything is computed from it."""


def flaw_of_states(prediction: Prediction) -> str | None:
    """What is wrong with the hidden states; None if they are finite."""
    if torch.isfinite(prediction.hidden).all():
        return None
    return "its hidden states are not finite; try dtype float32 or leave the document out"


def flaw_of_signals(signals: Sequence[Signal], prediction: Prediction) -> str | None:
    """The first field of a signal that is not finite; None if all are.

    Minus infinity is the log of zero, which a distribution may hold.
    """
    scored = prediction.scored.cpu().numpy()
    for signal in signals:
        for field in fields(signal):
            values = getattr(signal, field.name)
            if field.name == HIDDEN or not isinstance(values, np.ndarray):
                continue
            if values.dtype.kind == "f" and _is_flawed(field.name, values, scored):
                return f"{field.name} of its {type(signal).__name__} is not finite"
    return None


def _is_flawed(
    name: str, values: Shaped[np.ndarray, "..."], scored: Bool[np.ndarray, "token"]
) -> bool:
    if bool(np.isposinf(values).any()):
        return True
    if name not in PER_TOKEN:
        return bool(np.isnan(values).any())
    if name == "border_logprob" or len(values) != len(scored):
        return False
    return bool(scored.any() and np.isnan(values[scored]).all())
