"""A running mean (EMA) of the master weights, wherever they lie.

It is kept beside the masters as each rank holds them, whole or in flat parts, so an update needs
nothing of other ranks. To read or set it by parameter name it takes the masters' place for a
moment: what gathers and scatters masters then gathers and scatters the mean.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class RunningAverage:
    """Starts as the masters are.

    Args:
        masters: this rank's, the same tensors for the whole training.
        decay: after each step the mean keeps this share of itself.

    >>> weights = torch.tensor([0.0, 2.0])
    >>> average = RunningAverage([weights], 0.75)
    >>> _ = weights.add_(4.0)
    >>> average.update()
    >>> with average.in_place():
    ...     print(weights)
    tensor([1., 3.])
    >>> weights
    tensor([4., 6.])
    """

    def __init__(self, masters: Sequence[Tensor], decay: float) -> None:
        self._masters = list(masters)
        self._decay = decay
        self._means = [master.detach().clone() for master in masters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the masters after a step."""
        for mean, master in zip(self._means, self._masters, strict=True):
            mean.lerp_(master.detach(), 1.0 - self._decay)

    def move_to(self, device: str) -> None:
        """Keep the means there; the masters are moved by whoever owns them."""
        self._means = [mean.to(device) for mean in self._means]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The mean stands in the masters' place; what is set there stays in the mean."""
        kept = [master.detach().clone() for master in self._masters]
        _copy(self._means, self._masters)
        try:
            yield
        finally:
            _copy(self._masters, self._means)
            _copy(kept, self._masters)


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for value, place in zip(source, target, strict=True):
        place.detach().copy_(value.detach())
