"""The tokens that a model finds most likely over a whole document, as columns of probabilities.

Logits are divided by their standard deviation in each row first, so that models of different
confidence can be compared.

Source: MultiLevelOT, Cui et al. 2025, arXiv:2412.14528, section 3; 2018cx/Multi-Level-OT.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

from losses.prediction import Prediction
from losses.signals import Signal, pack

EPSILON = 1e-4
"""Added to the standard deviation, as published."""


@dataclass(frozen=True)
class ColumnProbabilities(Signal):
    """Probabilities of the same k tokens in each predicting row: 4k + 8 bytes a token.

    ``positions`` are the rows, one before the tokens that they predict; columns come in the order
    of their sums over the rows, the largest first.
    """

    byte_ends: Int32[np.ndarray, "token"]
    positions: Int32[np.ndarray, "row"]
    probabilities: Float[np.ndarray, "row k"]


def column_probabilities(teacher: Prediction, k: int, temperature: float) -> ColumnProbabilities:
    """The teacher's signal, in two passes over its distributions and without gradients."""
    positions = teacher.scored_positions - 1
    with torch.no_grad():
        ids = largest_columns(teacher, positions, k, temperature)
        found = read_columns(teacher, positions, ids, temperature)
    return ColumnProbabilities(
        byte_ends=teacher.tokens.byte_ends.astype(np.int32),
        positions=pack(positions.to(torch.int32)),
        probabilities=pack(found),
    )


def standardised(
    logprobs: Float[Tensor, "row vocab"], temperature: float
) -> Float[Tensor, "row vocab"]:
    """Probabilities of logits in units of their standard deviation.

    >>> table = torch.tensor([[0.9, 0.05, 0.05]]).log()
    >>> standardised(table, 1.0).argmax().item()
    0
    """
    if not len(logprobs):  # torch warns of a deviation of nothing
        return logprobs
    deviations = logprobs.std(-1, keepdim=True) + EPSILON
    return torch.softmax(logprobs / deviations / temperature, dim=-1)


def read_columns(
    prediction: Prediction,
    positions: Int64[Tensor, "row"],
    ids: Int64[Tensor, "k"],
    temperature: float,
) -> Float[Tensor, "row k"]:
    """The probabilities of these tokens in these rows."""
    return prediction.map_rows(
        lambda logprobs: standardised(logprobs, temperature).index_select(-1, ids), positions
    )


@torch.no_grad()
def largest_columns(
    prediction: Prediction, positions: Int64[Tensor, "row"], k: int, temperature: float
) -> Int64[Tensor, "k"]:
    """The tokens with the largest sums over the rows, the largest first; all if there are fewer."""
    totals = torch.zeros(prediction.head.num_valid, dtype=torch.float64, device=positions.device)

    def total(table: Float[Tensor, "any vocab"], rows: Int64[Tensor, "row"]) -> Tensor:
        return standardised(table[rows], temperature).sum(0, dtype=torch.float64)

    for part in _parts(prediction, positions):
        totals += prediction.map_table(total, positions[part])
    return totals.topk(min(k, len(totals))).indices


@torch.no_grad()
def nearest_columns(
    prediction: Prediction,
    positions: Int64[Tensor, "row"],
    target: Float[Tensor, "row k"],
    temperature: float,
) -> Int64[Tensor, "k"]:
    """For each target column in turn, the nearest one that is still free, by summed difference."""
    shape = (target.shape[1], prediction.head.num_valid)
    costs = torch.zeros(shape, dtype=torch.float64, device=positions.device)

    def cost(
        table: Float[Tensor, "any vocab"], rows: Int64[Tensor, "row"], wanted: Tensor
    ) -> Float[Tensor, "k vocab"]:
        own = standardised(table[rows], temperature).double()
        return torch.cdist(wanted.double().T, own.T, p=1)

    for part in _parts(prediction, positions):
        costs += prediction.map_table(partial(cost, wanted=target[part]), positions[part])
    return _greedy(costs)


def _parts(prediction: Prediction, positions: Int64[Tensor, "row"]) -> list[slice]:
    return prediction.parts(np.ones(len(positions), dtype=np.int64))


def _greedy(costs: Float64[Tensor, "k vocab"]) -> Int64[Tensor, "k"]:
    found = costs.new_zeros(len(costs), dtype=torch.int64)
    for column, row in enumerate(costs):
        best = row.argmin()
        costs[:, best] = torch.inf
        found[column] = best
    return found
