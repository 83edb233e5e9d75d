"""What a method reads of a teacher, and what each kind of teacher can tell.

A model that runs here tells everything. Others tell less, so a method that needs more is refused
while the run file is read.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Need(StrEnum):
    """Something that a teacher may be unable to tell."""

    LIKELIHOODS = "likelihoods of the text"
    """The log-probabilities of the document's own tokens."""
    TOP_K = "top-k"
    """The k likeliest tokens of each row with their log-probabilities."""
    DISTRIBUTIONS = "full distributions"
    """Whole rows, or sums over them: an entropy, another temperature, the mass of many tokens; or
    another token's entry than the text's own."""
    HIDDEN_STATES = "hidden states"
    """Final-norm hidden states."""
    CONTINUATIONS = "other continuations"
    """What follows tokens that the document does not have."""


SERVES: Mapping[str, frozenset[Need]] = MappingProxyType(
    {
        "hf": frozenset(Need),
        "self": frozenset(Need),
        "openai": frozenset({Need.LIKELIHOODS, Need.TOP_K}),
        "cache": frozenset(Need),
    }
)
"""What each kind of teacher tells; ``cache`` what was stored in it, which only it knows."""


def listed(needs: frozenset[Need]) -> list[str]:
    """The needs in words, in a fixed order.

    >>> listed(frozenset({Need.HIDDEN_STATES, Need.TOP_K}))
    ['top-k', 'hidden states']
    """
    return [need.value for need in Need if need in needs]
