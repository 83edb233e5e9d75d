"""A toy pair of vocabularies for the losses on chunk distributions, and all their forms."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Method, Pair
from losses.document import text_document
from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction

DOCUMENT, EMPTY = text_document("d", "not read"), nn.ModuleDict()
NUM_STUDENT, NUM_TEACHER = 9, 11
STUDENT_ENDS = [-1, 2, 3, 6, 7, 9, 10, 12, 14]
TEACHER_ENDS = [-1, 1, 2, 3, 7, 8, 9, 10, 14]  # borders 2, 3, 7, 9, 10, 14
EXACT = "float32"
CHAINS = [
    PKl(precision=EXACT),
    PKl(k=3, precision=EXACT),
    PKl(k=3, divergence="reverse", precision=EXACT),
    PKl(k=3, temperature=2.0, precision=EXACT),
    HKl(precision=EXACT),
    HKl(k=3, precision=EXACT),
    HKl(k=3, common="strict", precision=EXACT),
    HKl(k=3, divergence="reverse", precision=EXACT),
    Gold(precision=EXACT),
    Gold(k=3, precision=EXACT),
    Gold(k=3, beta=0.0, precision=EXACT),
    Gold(k=3, beta=1.0, precision=EXACT),
    Uld(precision=EXACT),
    Uld(k=3, precision=EXACT),
    Uld(k=3, merge="positions", precision=EXACT),
]
PUBLISHED = [
    PKl(k=3, chunk="mean", precision=EXACT),
    PKl(chunk="mean", divergence="reverse", precision=EXACT),
    HKl(k=3, chunk="mean", precision=EXACT),
    HKl(chunk="mean", common="relaxed", uncommon_k=2, precision=EXACT),
    Gold(k=3, merge="bayesian", precision=EXACT),
    Gold(k=3, merge="observed", beta=0.0, precision=EXACT),
    Uld(k=3, merge="bayesian", precision=EXACT),
    Uld(k=3, merge="observed", precision=EXACT),
]


@pytest.fixture(params=CHAINS, ids=repr)
def chain(request) -> Method:
    """The forms in which a chunk has its joint probability (or rows are compared one by one)."""
    return request.param


@pytest.fixture(params=CHAINS + PUBLISHED, ids=repr)
def method(request) -> Method:
    """The published forms too."""
    return request.param


def sparse(rows, num_teacher):
    entries = [(t, w) for row in rows for t, w in row]
    return Projection(
        offsets=np.cumsum([0, *(len(row) for row in rows)]),
        teacher_ids=np.array([t for t, _ in entries], dtype=np.int64),
        weights=np.array([w for _, w in entries], dtype=np.float32),
        num_teacher=num_teacher,
        exact=np.array([len(row) == 1 for row in rows]),
    )


# exact pairs, split rows, a row that starts like another one, an empty row; ids 9 and 10 unreached
W = sparse(
    [
        [(0, 1.0)],
        [(2, 1.0)],
        [(3, 1.0)],
        [(4, 0.9), (5, 0.1)],
        [(4, 0.9), (3, 0.1)],
        [(6, 1.0)],
        [(7, 0.5), (8, 0.4), (2, 0.1)],
        [],
        [(1, 1.0)],
    ],
    NUM_TEACHER,
)


def names(size):
    return Vocabulary((None, *(b"t%d" % index for index in range(1, size))), {0: "end"})


@dataclass(frozen=True)
class Toy:
    """Both sides of one document of 14 bytes; the student has 9 tokens to choose from."""

    noise: object
    w = W
    pair = Pair(names(NUM_STUDENT), names(NUM_TEACHER), projection=W)
    student_ends, teacher_ends = STUDENT_ENDS, TEACHER_ENDS
    num_student, num_teacher = NUM_STUDENT, NUM_TEACHER
    document, empty, exact = DOCUMENT, EMPTY, EXACT
    sparse = staticmethod(sparse)
    names = staticmethod(names)

    def side(
        self, logits, ends, seed=0, elements=ELEMENTS_IN_MEMORY, ids=None, scored=None
    ) -> Prediction:
        count, size = logits.shape
        if ids is None:
            ids = np.random.default_rng(seed).integers(0, size, count)
        marks = np.asarray(ends) > 0 if scored is None else np.asarray(scored)
        return Prediction(
            tokens=Tokens(ids, np.asarray(ends)),
            hidden=logits,
            head=Head(nn.Identity(), size),
            vocabulary=names(size),
            scored=torch.from_numpy(marks & (np.arange(count) > 0)),
            elements_in_memory=elements,
        )

    def sides(self, seed=0, dtype=torch.float64, elements=ELEMENTS_IN_MEMORY, scale=2.0):
        """The teacher's and the student's prediction; the student's logits want a gradient."""
        teacher = self.noise(len(TEACHER_ENDS), NUM_TEACHER, seed=seed, scale=scale).to(dtype)
        student = self.noise(len(STUDENT_ENDS), NUM_STUDENT, seed=seed + 1, scale=scale).to(dtype)
        return (
            self.side(teacher, TEACHER_ENDS, seed + 2, elements),
            self.side(student.requires_grad_(), STUDENT_ENDS, seed + 3, elements),
        )

    def total(self, method, teacher, student, pair=None):
        pair = pair or self.pair
        signal = method.signal(teacher, DOCUMENT)
        return method.loss(student, signal, pair, method.modules(pair)).total


@pytest.fixture
def toy(noise) -> Toy:
    return Toy(noise)
