"""Schemes that weigh each step's terms by what former steps measured.

The weights must be known before the first backward pass of a step, while its losses and norms are
known only after the last one. So a step reads the averages of the steps before it; the first step
reads a probe of its own batch. The numbers are those of the global batch, summed over micro-batches
and ranks before anything not linear is done to them: how a batch is split does not show.
"""

import math
from typing import ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from losses.base import OPTIONS
from losses.mixture.scheme import Observed, Scheme, Weights

EPSILON = 1e-8
"""Added to norms, as published."""


def moving_average(before: Weights | None, now: Weights, decay: float) -> Weights:
    """Each term's exponential moving average, from its first measurement on.

    A zero means that the batch had nothing for the term (no document went to its teacher), so the
    term keeps its average.

    >>> moving_average((2.0, 0.0, 2.0), (4.0, 4.0, 0.0), decay=0.5)
    (3.0, 4.0, 2.0)
    """
    pairs = zip(before or (0.0,) * len(now), now, strict=True)
    return tuple(
        old if new == 0 else new if old == 0 else decay * old + (1 - decay) * new
        for old, new in pairs
    )


@dataclass(frozen=True, config=OPTIONS)
class Dynamic(Scheme):
    """The teachers' losses, scaled together to the size of cross-entropy: X-Token's scaling.

    With K the mean of the teachers' losses, weighted by their weights, each of those weights is
    multiplied by CE / K. A teacher of weight 1 then adds as much to the loss as cross-entropy of
    weight 1; the weights of two teachers still say how they relate. The published form
    (NeMo-RL ``dynamic_loss_scaling``: loss = CE + stop_gradient(CE / KD) KD, with KD the weighted
    sum) takes both numbers from one micro-batch and ignores all weights but the teachers'
    proportions; it is this one, with the weights of the teachers adding up to 1, on a batch that
    is not split.

    Args:
        decay: of the running means of the losses; 0 reads the previous step alone.
        max_scale: CE / K is cut off here: it grows without bound as the student reaches a teacher.
    """

    min_teachers: ClassVar[int] = 1
    observes: ClassVar[Observed | None] = "losses"

    decay: float = Field(0.9, ge=0, lt=1)
    max_scale: float = Field(100.0, gt=0, allow_inf_nan=False)

    def averaged(self, before: Weights | None, now: Weights) -> Weights:
        return moving_average(before, now, self.decay)

    def weights(self, written: Weights, average: Weights) -> Weights:
        ce, losses = abs(average[0]), average[1:]
        rows = [(w, abs(k)) for w, k in zip(written[1:], losses, strict=True) if k != 0]
        total = math.fsum(w for w, _ in rows)
        mean = math.fsum(w * k for w, k in rows) / total if total else 0.0
        scale = min(ce / mean, self.max_scale) if ce and mean else 1.0
        return (written[0], *(w * scale for w in written[1:]))


@dataclass(frozen=True, config=OPTIONS)
class GradMag(Scheme):
    """Every term moves the last layer as much as its weight says: GradMag.

    Weights are proportional to written weight / norm of the term's gradient with respect to the
    last layer, and add up to what was written. Source: ALM (arXiv 2503.20083), GradMag; tokenkit's
    ``approx_gradmag_preserve_mag``, whose weights add up to 1 and which has no weights of its own:
    there the gradients are those of the batch itself. A term that was never measured keeps its
    written weight.

    Args:
        decay: of the running means of the norms; 0 reads the previous step alone.
    """

    min_teachers: ClassVar[int] = 1
    observes: ClassVar[Observed | None] = "norms"

    decay: float = Field(0.9, ge=0, lt=1)

    def averaged(self, before: Weights | None, now: Weights) -> Weights:
        return moving_average(before, now, self.decay)

    def weights(self, written: Weights, average: Weights) -> Weights:
        known = [norm > 0 for norm in average]
        inverse = [w / (norm + EPSILON) for w, norm in zip(written, average, strict=True)]
        mass = math.fsum(v for v, k in zip(inverse, known, strict=True) if k)
        total = math.fsum(w for w, k in zip(written, known, strict=True) if k)
        rows = zip(written, inverse, known, strict=True)
        return tuple(total * v / mass if k and mass else w for w, v, k in rows)
