"""A toy pair of vocabularies with real words, and sides whose rows stand before or after tokens."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.projection import Projection, ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import LossTerm, Method, Pair
from losses.document import text_document
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction

TEACHER = [None, " cats", " cat", "s", " runs", " run", " the", "low", " dog", "."]
STUDENT = [None, " c", "ats", " dogs", " the", " run", " cat", ".", " runs"]
DOCUMENT, EMPTY = text_document("d", "not read"), nn.ModuleDict()


def vocabulary_of(texts):
    """``None`` is an end token."""
    content = tuple(None if text is None else text.encode() for text in texts)
    ends = {index: "end" for index, text in enumerate(texts) if text is None}
    return Vocabulary(content, ends)


def pair_of(student: Vocabulary, teacher: Vocabulary) -> Pair:
    """With a W whose exact pairs have the same bytes or role."""
    w: Projection = build_projection(
        student, teacher, lambda texts: [() for _ in texts], ProjectionOptions()
    )
    return Pair(student, teacher, projection=w)


def side_of(rows, ids, vocabulary, *, after=False, elements=ELEMENTS_IN_MEMORY, first=0):
    """One row a token: it predicts it or, with ``after``, follows it; ``first`` is before all."""
    spare = rows.new_zeros(1, rows.shape[1])
    widths = [len(vocabulary.token_bytes[index] or b"") for index in ids]
    return Prediction(
        tokens=Tokens(np.array([first, *ids]), np.array([-1, *np.cumsum(widths)])),
        hidden=torch.cat([spare, rows] if after else [rows, spare]),
        head=Head(nn.Identity(), rows.shape[1]),
        vocabulary=vocabulary,
        scored=torch.arange(len(ids) + 1) > 0,
        elements_in_memory=elements,
    )


@dataclass(frozen=True)
class Toy:
    """The pair, and two readings of a text of the same bytes."""

    noise: object
    pair = pair_of(vocabulary_of(STUDENT), vocabulary_of(TEACHER))
    teacher_ids = (6, 1, 5, 9, 6, 8, 3, 4, 9, 1, 9)
    """ the| cats| run|.| the| dog|s| runs|.| cats|."""
    student_ids = (4, 1, 2, 5, 7, 4, 3, 8, 7, 6, 7)
    """ the| c|ats| run|.| the| dogs| runs|.| cat|. (an s is cut)"""
    document, empty = DOCUMENT, EMPTY
    vocabulary_of, pair_of = staticmethod(vocabulary_of), staticmethod(pair_of)
    side_of = staticmethod(side_of)

    def sides(self, seed=0, *, after=False, dtype=torch.float64, elements=ELEMENTS_IN_MEMORY):
        """The teacher's prediction, the student's rows that want a gradient, and its prediction."""
        rows = self.noise(len(self.teacher_ids), len(TEACHER), seed=seed).to(dtype)
        teacher = side_of(rows, self.teacher_ids, self.pair.teacher, after=after)
        own = self.noise(len(self.student_ids), len(STUDENT), seed=seed + 1).to(dtype)
        own.requires_grad_()
        student = side_of(own, self.student_ids, self.pair.student, after=after, elements=elements)
        return teacher, own, student

    def term(self, method: Method, teacher, student, pair=None) -> LossTerm:
        """Signal, what is done ahead, loss; the units must be those that were foretold."""
        pair = pair or self.pair
        scored = student.scored.numpy()
        signal = method.signal(teacher, DOCUMENT)
        ahead = method.ahead(student.tokens, scored, signal, pair)
        term = method.loss(student, ahead, pair, EMPTY)
        assert method.num_units(student.tokens, scored, ahead, pair) == term.units
        return term

    def total(self, method, teacher, student, pair=None):
        return self.term(method, teacher, student, pair).total


@pytest.fixture
def toy(noise) -> Toy:
    return Toy(noise)
