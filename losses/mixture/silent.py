"""Weights when some terms fall silent for good: those that are left take over."""

import math
from collections.abc import Collection

from losses.mixture.scheme import Weights


def handed_on(written: Weights, silent: Collection[int]) -> Weights:
    """The weights with those of silent terms given to the others, in proportion.

    Cross-entropy (term 0) keeps its own, so the sum over the teachers' terms stays what it was
    (unless every term that is left has weight 0).

    Args:
        written: the weights, cross-entropy first.
        silent: places of the terms that say nothing any more.

    >>> handed_on((1.0, 2.0, 1.0, 1.0), {1})
    (1.0, 0.0, 2.0, 2.0)
    """
    if not silent:
        return written
    total = math.fsum(written[1:])
    left = math.fsum(w for i, w in enumerate(written) if i and i not in silent)
    factor = total / left if left else 1.0
    return tuple(w if i == 0 else 0.0 if i in silent else w * factor for i, w in enumerate(written))
