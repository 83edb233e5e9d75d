"""Asking a model what follows when a document's text had gone on with other tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Continuation:
    """The document's tokens up to and with ``position``, then the tokens ``ids`` (one at least)."""

    position: int
    ids: tuple[int, ...]


@runtime_checkable
class Continuations(Protocol):
    """A model beside its prediction of a document."""

    def hidden_after(
        self, continuations: Sequence[Continuation]
    ) -> Float[Tensor, "continuation hidden"]:
        """Final-norm hidden states after the last token of each continuation."""
