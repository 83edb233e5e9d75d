"""Cross-entropy of the document's own tokens: the loss that needs no teacher."""

from losses.base import LossTerm
from losses.prediction import Prediction

UNIT = "tokens"
"""What the term's units count."""


def cross_entropy(student: Prediction) -> LossTerm:
    """Negative log-likelihood (nats) summed over the scored tokens; units are tokens."""
    logprobs = student.logprob_of_scored()
    return LossTerm(total=-logprobs.sum(), units=len(logprobs))
