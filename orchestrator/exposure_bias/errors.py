"""The error at each byte of a text: KL(teacher || student) of the next byte."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32
from torch import Tensor

from losses.divergence import forward
from losses.signals import ByteDistributions


def next_byte_errors(
    teacher: ByteDistributions, student: ByteDistributions, first: int, length: int
) -> Float64[np.ndarray, "length"]:
    """Errors (nats) at the bytes ``first``, ``first + 1``, …; NaN where a model says nothing.

    Both signals are of the same document.

    Raises:
        ValueError: the student finds a byte impossible that the teacher does not.
    """
    positions, ours, theirs = np.intersect1d(
        teacher.positions, student.positions, assume_unique=True, return_indices=True
    )
    wanted = (positions >= first) & (positions < first + length)
    rows = forward(_exact(teacher, ours[wanted]), _exact(student, theirs[wanted])).numpy()
    if not np.isfinite(rows).all():
        place = int(positions[wanted][~np.isfinite(rows)][0])
        raise ValueError(
            f"the error at byte {place} is {rows[~np.isfinite(rows)][0]}: a byte that the teacher "
            "expects has probability zero under the student; choose a converter that loses no "
            "mass, such as branches"
        )
    errors = np.full(length, np.nan)
    errors[positions[wanted] - first] = rows
    return errors


def _exact(
    signal: ByteDistributions, rows: Int32[np.ndarray, "row"] | np.ndarray
) -> Float[Tensor, "row 257"]:
    """Rows in float64 that sum to one, so that no rounding makes an error negative."""
    return torch.from_numpy(signal.logprobs[rows].astype(np.float64)).log_softmax(-1)
