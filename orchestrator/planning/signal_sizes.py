"""Bytes of a method's signals for each token, told by the method itself.

A method makes its signal of a made-up document: uniform distributions, hidden states of the
teacher's width. So no list of methods has to be kept, and a new one is planned as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Method
from losses.continuations import Continuation
from losses.document import Document, Segment
from losses.prediction import Head, Prediction

MOST_IDS = 2**14
"""A made-up vocabulary has no more; no method lists that many tokens."""

LENGTHS = (9, 17)
"""Tokens of the two documents whose difference counts; what comes once a document is left out."""

LETTERS = b"abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Speaker:
    """What a signal's size depends on beside the method's options."""

    vocabulary: int
    hidden: int
    dtype: torch.dtype
    bytes_per_token: float


def bytes_per_token(method: Method, teacher: Speaker) -> float:
    """Bytes of the signal's fields for each token of a long document.

    >>> from losses.methods import method_class
    >>> speaker = Speaker(512, 96, torch.float32, 4.0)
    >>> [bytes_per_token(method_class(name)(), speaker) for name in ("alm", "kl")]
    [12.0, 396.0]
    """
    below = int(max(4, teacher.bytes_per_token))
    low, high = (_slope(method, teacher, width) for width in (below, below + 1))
    return low + (high - low) * (teacher.bytes_per_token - below)


def _slope(method: Method, teacher: Speaker, width: int) -> float:
    few, many = (_size(method, teacher, width, length) for length in LENGTHS)
    return (many - few) / (LENGTHS[1] - LENGTHS[0])


def _size(method: Method, teacher: Speaker, width: int, length: int) -> int:
    vocabulary = _vocabulary(min(teacher.vocabulary, MOST_IDS), width)
    content = [vocabulary.token_bytes[index] or b"" for index in range(1, length)]
    ends = [-1, *(width * count for count in range(1, length))]
    tokens = Tokens(np.arange(length), np.array(ends))
    document = Document("made up", (Segment("text", b"".join(content), scored=True),))
    prediction = Prediction(
        tokens=tokens,
        hidden=torch.zeros(length, teacher.hidden, dtype=teacher.dtype),
        head=Head(_Uniform(len(vocabulary)), len(vocabulary)),
        vocabulary=vocabulary,
        scored=torch.from_numpy(tokens.scored(document.scored)),
    )
    prediction.embed = _Embed(teacher)
    prediction.continuations = _Silent(teacher)
    with torch.no_grad():
        return method.signal(prediction, document).num_bytes


@lru_cache(maxsize=4)
def _vocabulary(size: int, width: int) -> Vocabulary:
    """A start token, then words of equal length, no two alike."""
    words = [bytes(_letter(index, place) for place in range(width)) for index in range(1, size)]
    return Vocabulary((None, *words), {0: "start"})


def _letter(index: int, place: int) -> int:
    base = len(LETTERS)
    step: int = base ** min(place, 8)
    return LETTERS[index // step % base]


class _Uniform(nn.Module):
    """A head that says nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        return hidden.new_zeros(len(hidden), self.size)


@dataclass(frozen=True)
class _Embed:
    """Input embeddings of the teacher's width."""

    teacher: Speaker

    def __call__(self, ids: Int64[Tensor, "row"]) -> Float[Tensor, "row width"]:
        return torch.zeros(len(ids), self.teacher.hidden, dtype=self.teacher.dtype)


@dataclass(frozen=True)
class _Silent:
    """Says nothing about other tokens either."""

    teacher: Speaker

    def hidden_after(
        self, continuations: Sequence[Continuation]
    ) -> Float[Tensor, "continuation hidden"]:
        """Zeros."""
        return torch.zeros(len(continuations), self.teacher.hidden, dtype=self.teacher.dtype)
