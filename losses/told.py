"""What somebody else told of a model: its likelihoods of the text, each row's likeliest tokens.

A server gives numbers, not hidden states. A prediction made of them answers the same questions as
one of a model that runs here, as far as the numbers go, and refuses all others.
"""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from torch import Tensor

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.needs import Need
from losses.prediction import Prediction, RowFunction

ROUNDING = 2.0**-20
"""Probability up to which one minus a sum of probabilities told in fp32 is noise."""

BEHIND = {
    "hidden": Need.HIDDEN_STATES,
    "embed": Need.HIDDEN_STATES,
    "continuations": Need.CONTINUATIONS,
}
"""What is missing where an attribute is; any other belongs to the full distributions."""


class Untold(ValueError):
    """A method asks for something that was not told."""


@dataclass(frozen=True)
class Told:
    """A document's likelihoods and likeliest tokens, one entry for each of its tokens.

    Entry ``i`` belongs to the row that predicts token ``i`` from those before it. ``logprob``
    (nats) is NaN where there is no such row: at the first token. ``ids`` and ``logprobs`` are the
    row's likeliest tokens, the likeliest first; an entry that was not told has id -1 and -inf.
    """

    logprob: Float32[np.ndarray, "token"]
    ids: Int32[np.ndarray, "token k"]
    logprobs: Float32[np.ndarray, "token k"]


@dataclass(frozen=True)
class Listed:
    """Rows as ``TopTokens`` has them: the realised token, others, and the log of what is left."""

    realised: Int64[Tensor, "row"]
    logprob: Float[Tensor, "row"]
    ids: Int64[Tensor, "row k"]
    others: Float[Tensor, "row k"]
    tail: Float[Tensor, "row"]


class ToldPrediction(Prediction):
    """A prediction that was told: no hidden states, no head, no row that is whole.

    Args:
        tokens: the model's view of the document.
        vocabulary: the model's vocabulary.
        scored: tokens that count; never true at position 0.
        told: what is known of each token.

    Raises:
        ValueError: a scored token has no likelihood.
    """

    # Not ``super().__init__``, which makes rows of hidden states.
    def __init__(
        self,
        *,
        tokens: Tokens,
        vocabulary: Vocabulary,
        scored: Bool[Tensor, "token"],
        told: Told,
    ) -> None:
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.scored = scored
        self.told = told
        missing = np.flatnonzero(scored.numpy() & ~np.isfinite(told.logprob))
        if len(missing):
            raise ValueError(
                f"token {missing[0]} of {len(tokens)} counts, but its likelihood was not told; "
                "expected a finite log-probability of every scored token"
            )

    def __getattr__(self, name: str) -> NoReturn:
        """Whatever a model would have and this has not."""
        if name.startswith("__"):
            raise AttributeError(name)
        refuse(BEHIND.get(name, Need.DISTRIBUTIONS))

    @property
    def device(self) -> torch.device:
        """What is told lies in the memory of the processor."""
        return torch.device("cpu")

    def map_rows(
        self, function: RowFunction, positions: Int64[Tensor, "row"], *args: Tensor
    ) -> NoReturn:
        """Refused: there are no whole rows."""
        refuse(Need.DISTRIBUTIONS)

    def map_table(self, function: RowFunction, positions: Int64[Tensor, "row"]) -> NoReturn:
        """Refused: there are no whole rows."""
        refuse(Need.DISTRIBUTIONS)

    def embeddings(self, positions: Int64[Tensor, "row"]) -> NoReturn:
        """Refused: there is no model."""
        refuse(Need.HIDDEN_STATES)

    def logprob_of_scored(self) -> Float[Tensor, "scored"]:
        return torch.from_numpy(self.told.logprob)[self.scored_positions]

    def listed(self, k: int) -> Listed:
        """Each scored token's row with the ``k`` likeliest others, fewer in a small vocabulary.

        Raises:
            ValueError: fewer were told.
        """
        positions, size = self.scored_positions, len(self.vocabulary)
        k = max(0, min(k, size - 1))
        realised = torch.from_numpy(self.tokens.ids)[positions]
        ids = torch.from_numpy(self.told.ids.astype(np.int64))[positions]
        values = torch.from_numpy(self.told.logprobs)[positions]
        left_out = (ids == realised.unsqueeze(-1)) | (ids < 0)
        self._check_told(left_out, k)
        kept = left_out.int().argsort(dim=-1, stable=True)[:, :k]
        others, logprob = values.gather(-1, kept), self.logprob_of_scored()
        tail = _tail(logprob, others, size - 1 - k)
        return Listed(realised, logprob, ids.gather(-1, kept), others, tail)

    def _check_told(self, left_out: Bool[Tensor, "row told"], k: int) -> None:
        others = (~left_out).sum(-1)
        if len(others) and int(others.min()) < k:
            raise ValueError(
                f"{k} likely tokens beside the text's own are asked for, but only "
                f"{int(others.min())} of a row were told; lower the method's k, or let the "
                "teacher's server list more (server.top_logprobs)"
            )


def refuse(need: Need) -> NoReturn:
    """Say what was not told.

    Raises:
        Untold: always.
    """
    raise Untold(
        f"this teacher tells {Need.LIKELIHOODS.value} and {Need.TOP_K.value} alone, but the method "
        f"reads {need.value}; use another method, or a teacher of kind hf"
    )


def _tail(
    logprob: Float[Tensor, "row"], others: Float[Tensor, "row k"], unlisted: int
) -> Float[Tensor, "row"]:
    """Log of the mass that is left, of ``unlisted`` tokens none of which is likelier than others.

    The sum of what was told is known to ``ROUNDING`` only; the least likely of the others bounds
    what can be left.
    """
    mass = 1 - logprob.double().exp() - others.double().exp().sum(-1)
    mass = mass.clamp(min=ROUNDING)
    if others.shape[-1]:
        mass = torch.minimum(mass, unlisted * others.double().amin(-1).exp())
    return mass.log().float()
