"""A student with two tokens of the same bytes is compared by the one that it writes.

SentencePiece vocabularies with byte fallback have ``<0x61>`` and ``a``; the former has the lower
id, and the model never writes it where the latter is there.
"""

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.projection import Projection, ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.chunk_distributions.matched import matched_of
from losses.document import text_document
from losses.methods import method_class
from losses.prediction import Head, Prediction

STUDENT = Vocabulary((None, b"a", b"b", b"a", b"b", b"ab", b" "), {0: "end"})
TEACHER = Vocabulary((b"a", b"b", b" ", b"c", None), {4: "end"})
WRITTEN = {"a": 3, "b": 4, "ab": 5, " ": 6}
NEVER = 1e-6


@pytest.fixture
def projection() -> Projection:
    read = {"a": 0, "b": 1, " ": 2, "c": 3}
    return build_projection(
        STUDENT,
        TEACHER,
        lambda texts: [[read[character] for character in text] for text in texts],
        ProjectionOptions(),
        lambda texts: [[WRITTEN[text]] for text in texts],
    )


def prediction(vocabulary: Vocabulary, probs: list[float], ids: list[int]) -> Prediction:
    logits = torch.tensor([probs] * 3, dtype=torch.float64).log().requires_grad_()
    return Prediction(
        tokens=Tokens(np.array(ids), np.array([-1, 1, 2])),
        hidden=logits,
        head=Head(nn.Identity(), len(vocabulary)),
        vocabulary=vocabulary,
        scored=torch.tensor([False, True, True]),
    )


def test_only_the_written_twin_is_exact(projection):
    assert projection.exact.tolist() == [True, False, False, True, True, False, True]
    assert projection.row(1) == projection.row(3) == {0: 1.0}


@pytest.mark.parametrize("common", ["top1", "relaxed", "strict"])
def test_the_written_twin_is_the_partner(projection, common):
    matched = matched_of(projection, torch.device("cpu"), common)
    pairs = dict(zip(matched.teachers.tolist(), matched.students.tolist(), strict=True))
    assert pairs == {0: 3, 1: 4, 2: 6, 4: 0}


@pytest.mark.parametrize(
    ("name", "options"), [("p_kl", {}), ("h_kl", {}), ("h_kl", {"common": "strict"}), ("gold", {})]
)
def test_nothing_to_learn_from_a_teacher_that_agrees(projection, name, options):
    ours = prediction(STUDENT, [NEVER, NEVER, NEVER, 0.6, 0.3 - 4 * NEVER, NEVER, 0.1], [0, 3, 4])
    theirs = prediction(TEACHER, [0.6, 0.3, 0.1 - 2 * NEVER, NEVER, NEVER], [4, 0, 1])
    method = method_class(name)(k=4, precision="float32", **options)
    signal = method.signal(theirs, text_document("d", "ab"))
    pair = Pair(STUDENT, TEACHER, projection=projection)
    loss = method.loss(ours, signal, pair, nn.ModuleDict()).total
    loss.backward()
    assert 0 <= loss.item() < 1e-3
    assert ours.hidden.grad.abs().max() < 1e-3
