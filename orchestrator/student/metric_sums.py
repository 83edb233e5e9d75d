"""What the methods count beside their losses, summed over the documents of a step."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from losses.base import LossTerm, Method


class MetricSums:
    """Sums of ``LossTerm.metrics``; all ranks have the same names in the same order.

    Args:
        methods: of the terms, by the terms' names.
    """

    def __init__(self, methods: Sequence[tuple[str, Method]]) -> None:
        rows = [
            (f"{term}/{name}", place)
            for place, (term, method) in enumerate(methods, start=1)
            for name in method.metric_names
        ]
        self.names = tuple(name for name, _ in rows)
        """``teacher/method/name`` of each."""
        self.places = [place for _, place in rows]
        """The place of each one's term among the totals, which cross-entropy leads."""
        self._sums: dict[str, Tensor] = {}

    def add(self, term: str, loss: LossTerm, share: float) -> None:
        """Count one document's, multiplied as its loss is."""
        for name, value in loss.metrics.items():
            name = f"{term}/{name}"
            counted = share * value.detach().double()
            self._sums[name] = self._sums[name] + counted if name in self._sums else counted

    def take(self) -> Float64[Tensor, "metric"]:
        """The sums since the last call.

        Raises:
            ValueError: a method counted something that is not among its ``metric_names``.
        """
        if unknown := sorted(self._sums.keys() - set(self.names)):
            raise ValueError(
                f"{unknown[0]} was counted but is not declared; expected its name among the "
                "method's metric_names, so that every rank sums the same"
            )
        found = [float(self._sums.get(name, 0.0)) for name in self.names]
        self._sums.clear()
        return torch.tensor(found, dtype=torch.float64)

    def named(self, sums: Sequence[float], factors: Sequence[float]) -> dict[str, float]:
        """The sums by name, divided by their terms' factors as the losses are."""
        rows = zip(self.names, sums, self.places, strict=True)
        return {name: s / factors[p] if factors[p] else 0.0 for name, s, p in rows}
