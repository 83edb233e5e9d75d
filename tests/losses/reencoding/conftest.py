"""Two toy tokenizers that cut longest pieces first, and one document under both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction

ACCENT = "é".encode()
STUDENT = Vocabulary(
    (
        *(None, b" c", b"ats", b" cl", b"owder", b"s", b" ", b"c", b"a", b"t", b"l", b"o", b"w"),
        *(b"d", b"e", b"r", b"1", b"2", b" 12", ACCENT[:1], ACCENT[1:], b" cats", None),
    ),
    {0: "start", 22: "end"},
)
TEACHER = Vocabulary(
    (
        *(None, b" c", b"ats", b"low", b"der", b"s", b" ", b"c", b"a", b"t", b"l", b"o", b"w"),
        *(b"d", b"e", b"r", b"1", b"2", ACCENT, ACCENT[:1], ACCENT[1:], b" clowns", b"n", None),
        *(None, b" 1", b"12"),
    ),
    {0: "start", 23: "end", 24: "other"},
)
TEXT = " cats clowder 12é cat12"
DOCUMENT = text_document("d", TEXT)


def cut(content: bytes, vocabulary: Vocabulary) -> list[int]:
    """The longest piece first; of several the lowest id. Nothing for what has no piece."""
    ids: list[int] = []
    while content:
        sizes = [size for size in range(len(content), 0, -1) if vocabulary.ids_of(content[:size])]
        if not sizes:
            return []
        ids.append(vocabulary.ids_of(content[: sizes[0]])[0])
        content = content[sizes[0] :]
    return ids


@dataclass
class Counting:
    """The student's tokenizer; ``texts`` are all it was ever asked."""

    vocabulary: Vocabulary
    texts: list[str] = field(default_factory=list)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        self.texts += texts
        return [cut(text.encode(), self.vocabulary) for text in texts]


def tokens_of(vocabulary: Vocabulary, text: str = TEXT) -> Tokens:
    """After a start token without bytes."""
    ids = cut(text.encode(), vocabulary)
    ends = np.cumsum([len(vocabulary.token_bytes[index]) for index in ids])
    return Tokens(np.array([0, *ids]), np.array([-1, *ends]))


def predict(
    logits: torch.Tensor,
    tokens: Tokens,
    vocabulary: Vocabulary,
    elements: int = ELEMENTS_IN_MEMORY,
    scored=None,
) -> Prediction:
    """Hidden states are logits; all tokens are scored unless told."""
    marks = tokens.byte_ends > 0 if scored is None else np.asarray(scored)
    return Prediction(
        tokens=tokens,
        hidden=logits,
        head=Head(nn.Identity(), len(vocabulary)),
        vocabulary=vocabulary,
        scored=torch.from_numpy(marks & (np.arange(len(tokens)) > 0)),
        elements_in_memory=elements,
    )


@dataclass(frozen=True)
class World:
    """Both sides of the document."""

    noise: Callable
    encode: Counting
    pair: Pair
    student_vocabulary, teacher_vocabulary, document = STUDENT, TEACHER, DOCUMENT
    cut, tokens_of, predict = staticmethod(cut), staticmethod(tokens_of), staticmethod(predict)

    def teacher(self, seed=0, shift=0.0, text=TEXT, scored=None) -> Prediction:
        tokens = tokens_of(TEACHER, text)
        logits = self.noise(len(tokens), len(TEACHER), seed=seed) + shift
        return predict(logits, tokens, TEACHER, scored=scored)

    def student(self, seed=1, elements=ELEMENTS_IN_MEMORY, shift=0.0, text=TEXT, scored=None):
        tokens = tokens_of(STUDENT, text)
        logits = self.noise(len(tokens), len(STUDENT), seed=seed) + shift
        return predict(logits.requires_grad_(), tokens, STUDENT, elements, scored)

    def ahead(self, method, teacher=None, student=None, pair=None):
        """What the method makes of the teacher's signal at the student."""
        teacher, student = teacher or self.teacher(), student or self.student()
        signal = method.signal(teacher, DOCUMENT)
        scored = student.scored.numpy()
        return method.ahead(student.tokens, scored, signal, pair or self.pair)

    def modules(self, method, scale=None):
        """The method's modules in float64; ``scale`` in place of the adapter's ones."""
        modules = method.modules(self.pair).double()
        if scale is not None:
            modules["adapter"].scale.data.copy_(scale)
        return modules

    def loss(self, method, teacher=None, student=None, scale=None):
        student = student or self.student()
        labels = self.ahead(method, teacher, student)
        return method.loss(student, labels, self.pair, self.modules(method, scale))


@pytest.fixture
def world(noise) -> World:
    encode = Counting(STUDENT)
    return World(noise, encode, Pair(STUDENT, TEACHER, encode_student=encode))


def entries_of(labels) -> dict[tuple[int, int], float]:
    """(position of the predicted token, student token) -> score."""
    rows = zip(labels.positions.tolist(), labels.ids.tolist(), labels.scores.tolist(), strict=True)
    found: dict[tuple[int, int], float] = {}
    for position, ids, scores in rows:
        for index, score in zip(ids, scores, strict=True):
            if score != 0:
                found[position, index] = score
    return found


@pytest.fixture
def entries():
    return entries_of
