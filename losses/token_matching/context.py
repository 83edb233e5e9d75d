"""Context weights of CDM: tokens of high entropy make a mismatch dearer."""

import numpy as np
from jaxtyping import Float, Int64

STEEPNESS, MIDDLE = 4.0, 2.0
LEAST, SPREAD = 3, 3


def context_factors(entropy: Float[np.ndarray, "token"]) -> Int64[np.ndarray, "token"]:
    """int(3 σ(4x - 2) + 3), x the entropy from its least (0) to its largest (1): 3, 4 or 5.

    Where all entropies are equal (one token, say) the formula is 0 / 0; x is then 1/2.

    Source: pppa2019/ContexualDynamicMapping, as described in its ports.

    >>> context_factors(np.array([0.0, 1.0, 2.0])).tolist(), context_factors(np.ones(1)).tolist()
    ([3, 4, 5], [4])
    """
    if not len(entropy):
        return np.zeros(0, dtype=np.int64)
    least, largest = entropy.min(), entropy.max()
    place = (entropy - least) / (largest - least) if largest > least else np.full_like(entropy, 0.5)
    return (SPREAD / (1 + np.exp(MIDDLE - STEEPNESS * place)) + LEAST).astype(np.int64)
