"""New rows as weighted means of old rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True, eq=False)
class RowMixture:
    """The weights of old rows in each new row.

    Args:
        offsets: new row ``t`` has the entries ``offsets[t]`` to ``offsets[t + 1]``.
        sources: the old row of each entry.
        weights: its weight; those of a row sum to 1. A row without entries is the mean of all.
        drawn: new rows that are drawn instead, from a normal distribution with the mean and the
            standard deviation of each column of the old rows.
    """

    offsets: Int64[np.ndarray, "bound"]
    sources: Int64[np.ndarray, "entry"]
    weights: Float64[np.ndarray, "entry"]
    drawn: Int64[np.ndarray, "drawn"]

    @classmethod
    def of(cls, rows: Iterable[Mapping[int, float]], drawn: Sequence[int] = ()) -> "RowMixture":
        """From each new row's old rows and their weights, which are scaled to sum to 1.

        >>> RowMixture.of([{2: 1.0}, {}, {0: 3.0, 1: 1.0}]).weights.tolist()
        [1.0, 0.75, 0.25]
        """
        listed = list(rows)
        sizes = np.fromiter(map(len, listed), dtype=np.int64, count=len(listed))
        sources = [source for row in listed for source in row]
        totals = np.repeat([sum(row.values()) or 1.0 for row in listed], sizes)
        weights = np.asarray([w for row in listed for w in row.values()], dtype=np.float64)
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        old, ids = (np.asarray(values, dtype=np.int64) for values in (sources, drawn))
        return cls(offsets, old, weights / totals, ids)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def is_empty(self) -> Bool[np.ndarray, "target"]:
        """Rows that no old row says anything about."""
        found: Bool[np.ndarray, "target"] = np.diff(self.offsets) == 0
        return found

    def apply(
        self, table: Float[Tensor, "source width"], num_valid: int, seed: int
    ) -> Float[Tensor, "target width"]:
        """The new rows, in float32 or finer.

        Args:
            table: the old rows.
            num_valid: how many of them are a token's; the rest is padding.
            seed: of the rows that are drawn.
        """
        exact = table.detach().to(torch.promote_types(table.dtype, torch.float32))
        sources, offsets = torch.from_numpy(self.sources), torch.from_numpy(self.offsets[:-1])
        weights = torch.from_numpy(self.weights).to(exact)
        places = (sources.to(exact.device), exact, offsets.to(exact.device))
        new: Tensor = embedding_bag(*places, mode="sum", per_sample_weights=weights)
        std, mean = torch.std_mean(exact[:num_valid], dim=0, correction=0)
        new[torch.from_numpy(self.is_empty).to(exact.device)] = mean
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(self.drawn), len(mean), generator=generator, dtype=exact.dtype)
        new[torch.from_numpy(self.drawn).to(exact.device)] = noise.to(exact) * std + mean
        return new


def uniform(pieces: Sequence[int]) -> dict[int, float]:
    """Equal weights; a piece that comes twice counts twice.

    >>> uniform([5, 7, 5])
    {5: 2.0, 7: 1.0}
    """
    found: dict[int, float] = {}
    for piece in pieces:
        found[piece] = found.get(piece, 0.0) + 1.0
    return found
