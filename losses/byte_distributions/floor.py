"""Rows of masses as finite log-probabilities, and which rows lost the byte that was there."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from losses.byte_distributions.sorted_vocabulary import END
from losses.document import END_OF_TURN, Document
from losses.signals import ByteDistributions

FLOOR = 1e-7
"""Probability spread evenly over a row's symbols: no log-probability is below -21.7.

Half precision holds that to 1/128, and a divergence stays finite where a model rules a byte out.
"""


def floored(masses: Float64[Tensor, "row symbol"]) -> Float64[Tensor, "row symbol"]:
    """Each row's log-probabilities (nats) with the floor mixed in; uniform where it has no mass."""
    total = masses.sum(-1, keepdim=True)
    empty = total <= 0
    share = masses / torch.where(empty, 1, total)
    mixed = (1 - FLOOR) * share + FLOOR / masses.shape[-1]
    uniform = 1 / masses.shape[-1]
    return torch.where(empty, uniform, mixed).log()


def targets(document: Document, positions: Int64[np.ndarray, "row"]) -> Int64[np.ndarray, "row"]:
    """The symbol that the document has at each position: a byte, or the end of a turn.

    >>> from losses.document import chat_document
    >>> targets(chat_document("d", [("assistant", "Hi")]), np.array([1, 2])).tolist()
    [105, 256]
    """
    content = np.frombuffer(document.content, dtype=np.uint8)[positions].astype(np.int64)
    return np.where(content == END_OF_TURN[0], END, content)


def is_lost(
    logprobs: Float[np.ndarray, "row symbol"], symbols: Int64[np.ndarray, "row"]
) -> Bool[np.ndarray, "row"]:
    """True where the row's own symbol has little but the floor's mass."""
    own = np.take_along_axis(logprobs, symbols[:, None], axis=-1)[:, 0]
    return own < math.log(2 * FLOOR / logprobs.shape[-1])


def num_lost(signal: ByteDistributions, document: Document) -> int:
    """How many rows give the document's own byte little but the floor."""
    positions = signal.positions.astype(np.int64)
    return int(is_lost(signal.logprobs, targets(document, positions)).sum())
