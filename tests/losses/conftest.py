"""Small predictions whose hidden states are their logits (the head's linear map is identity)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction

settings.register_profile(
    "losses",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("losses")

GOLDEN = Path(__file__).parents[1] / "golden"


def plain_vocabulary(size: int) -> Vocabulary:
    """An end token, then words (even ids) and word pieces (odd ids)."""
    words = [f"{'' if index % 2 else ' '}w{index}".encode() for index in range(1, size)]
    return Vocabulary((None, *words), {0: "end"})


def make_prediction(
    logits: torch.Tensor,
    byte_ends: Any = None,
    *,
    ids: Any = None,
    scored: Any = None,
    vocabulary: Vocabulary | None = None,
    elements: int = ELEMENTS_IN_MEMORY,
) -> Prediction:
    """By default a start token and then tokens of two bytes, all of them scored."""
    count, size = logits.shape
    ends = np.arange(count) * 2 if byte_ends is None else np.asarray(byte_ends)
    ends = np.where(np.arange(count) == 0, -1, ends) if byte_ends is None else ends
    marks = ends > 0 if scored is None else np.asarray(scored)
    if count:
        marks = marks & (np.arange(count) > 0)
    return Prediction(
        tokens=Tokens(np.asarray(np.arange(count) % size if ids is None else ids), ends),
        hidden=logits,
        head=Head(nn.Identity(), size),
        vocabulary=vocabulary or plain_vocabulary(size),
        scored=torch.from_numpy(np.array(marks, dtype=bool)),
        elements_in_memory=elements,
    )


@pytest.fixture
def predict() -> Callable[..., Prediction]:
    return make_prediction


@pytest.fixture
def golden() -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """Normal float64 numbers of a shape, always the same for a seed."""

    def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw
