"""Schemes that divide a document among its teachers by how sure each of them is of it.

One rule serves them all. With the teachers' written weights w, and m the mean nats of a teacher on
the document, teacher i gets

    sum_j w_j  *  w_i exp(-m_i / T)  /  sum_j w_j exp(-m_j / T)

so the weights of one document add up to what was written, and a high temperature T leaves them as
written. ``Select`` is the limit of T to 0. Sums run over the teachers that the document goes to.

NeMo-RL (``sum_weights_metric``) takes softmax(alpha * score) with score = -cross-entropy or
-entropy per token of each teacher's own tokenizer, from one number per micro-batch. A number per
micro-batch makes the objective depend on how the batch is split, and nats per token flatter a
tokenizer with short tokens. Here it is one number per document; the default of ``Confidence`` and
``Select`` is nats per byte, which is the same event for everybody. ``TeacherCe`` is the same
mathematics as ``Confidence`` with the published unit and exponent (alpha = 1 / temperature).
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from losses.base import OPTIONS
from losses.mixture.scheme import Scheme
from losses.mixture.teacher_score import Metric, Per, TeacherScore


def soft_shares(written: Sequence[float], nats: Sequence[float], temperature: float) -> list[float]:
    """Factors of the written weights, by softmax of minus the nats.

    A teacher with nothing scored (infinite nats) gets nothing, unless that is true of all.

    >>> soft_shares([1.0, 1.0], [0.0, math.log(3)], temperature=1.0)
    [1.5, 0.5]
    """
    live = [m for w, m in zip(written, nats, strict=True) if w > 0 and math.isfinite(m)]
    if not live:
        return [1.0] * len(written)
    best = min(live)
    # A teacher of weight 0 may be better than the best: its factor changes nothing.
    grown = [math.exp(min(0.0, (best - m) / temperature)) for m in nats]
    mass = math.fsum(w * g for w, g in zip(written, grown, strict=True))
    return [math.fsum(written) * g / mass for g in grown]


def hard_shares(written: Sequence[float], nats: Sequence[float]) -> list[float]:
    """All of the weight to the teacher of least nats; of equals, to the first.

    >>> hard_shares([1.0, 3.0], [0.2, 0.1])
    [0.0, 1.3333333333333333]
    """
    live = [i for i, w in enumerate(written) if w > 0 and math.isfinite(nats[i])]
    if not live:
        return [1.0] * len(written)
    best = min(live, key=lambda i: nats[i])
    shares = [0.0] * len(written)
    shares[best] = math.fsum(written) / written[best]
    return shares


@dataclass(frozen=True, config=OPTIONS)
class Confidence(Scheme):
    """By each teacher's mean nats per byte on the document.

    Args:
        temperature: nats per byte by which a teacher must be better to get e times the weight.
    """

    min_teachers: ClassVar[int] = 2

    temperature: float = Field(0.1, gt=0, allow_inf_nan=False)

    @property
    def asks(self) -> Metric:
        return "ce"

    def shares(self, written: Sequence[float], scores: Sequence[TeacherScore]) -> list[float]:
        return soft_shares(written, [score.mean("byte") for score in scores], self.temperature)


@dataclass(frozen=True, config=OPTIONS)
class TeacherCe(Scheme):
    """By each teacher's cross-entropy on the document, as in NeMo-RL's ``sum_weights_metric``.

    Args:
        temperature: nats by which a teacher must be better to get e times the weight; the inverse
            of the published ``alpha``.
        per: token (published) or byte; byte is ``confidence``.
    """

    min_teachers: ClassVar[int] = 2

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    per: Per = "token"

    @property
    def asks(self) -> Metric:
        return "ce"

    def shares(self, written: Sequence[float], scores: Sequence[TeacherScore]) -> list[float]:
        return soft_shares(written, [score.mean(self.per) for score in scores], self.temperature)


@dataclass(frozen=True, config=OPTIONS)
class TeacherEntropy(Scheme):
    """By the mean entropy of each teacher's predictions, as in NeMo-RL's ``sum_weights_metric``.

    Args:
        temperature: nats by which a teacher must be surer to get e times the weight; the inverse
            of the published ``alpha``.
        per: token (published) or byte.
    """

    min_teachers: ClassVar[int] = 2

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    per: Per = "token"

    @property
    def asks(self) -> Metric:
        return "entropy"

    def shares(self, written: Sequence[float], scores: Sequence[TeacherScore]) -> list[float]:
        return soft_shares(written, [score.mean(self.per) for score in scores], self.temperature)


@dataclass(frozen=True, config=OPTIONS)
class Select(Scheme):
    """Each document goes to its best teacher alone, with all teachers' weight.

    NeMo-RL's ``select_teacher`` chooses one teacher for a whole micro-batch, per token.

    Args:
        metric: ce or entropy; the least wins.
        per: byte, or token (published).
    """

    min_teachers: ClassVar[int] = 2

    metric: Metric = "ce"
    per: Per = "byte"

    @property
    def asks(self) -> Metric:
        return self.metric

    def shares(self, written: Sequence[float], scores: Sequence[TeacherScore]) -> list[float]:
        return hard_shares(written, [score.mean(self.per) for score in scores])
