"""Token histories that end inside a document, and the sum over all that cover a byte.

A history that ends at slot ``s`` covers a byte at slot ``i >= s`` with every token that begins
with the bytes between. The next byte's mass is the sum over histories of the history's own
probability times the mass of the tokens that go on with that byte.

Source: Vieira et al. 2024, arXiv:2412.03719 (covers).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from losses.byte_distributions.asked import Answer, Asked
from losses.byte_distributions.reading import Reading
from losses.byte_distributions.sorted_vocabulary import Walks

NUM_SYMBOLS = 257
"""256 bytes and the end."""
IMPOSSIBLE = -700.0
"""Log-probability of a path's token that the model rules out: far below, yet no infinity."""


@dataclass(frozen=True)
class Entries:
    """One history at one slot.

    Args:
        history: its number.
        at: the slot.
        logweight: log-probability (nats) of the history, up to a constant of its stretch.
    """

    history: Int64[np.ndarray, "entry"]
    at: Int64[np.ndarray, "entry"]
    logweight: Float64[Tensor, "entry"]


def path_walks(reading: Reading, walks: Walks) -> Walks:
    """The stretches that begin where one of the document's own tokens begins."""
    return walks.where(reading.is_start[walks.start])


def path_between(
    reading: Reading, starts: Int64[np.ndarray, "entry"], ends: Int64[np.ndarray, "entry"]
) -> Bool[np.ndarray, "piece"]:
    """The pieces from the one at each start slot to the one at each end slot."""
    marks = np.zeros(len(reading.tokens) + 1, dtype=np.int64)
    np.add.at(marks, reading.piece[starts], 1)
    np.add.at(marks, reading.piece[ends] + 1, -1)
    return np.cumsum(marks[:-1]) > 0


def path_logweights(
    logprob: Float64[Tensor, "needed"], needed: Int64[np.ndarray, "needed"], num_pieces: int
) -> Float64[Tensor, "piece"]:
    """Log-probability of the document's own tokens before each piece, summed over needed ones."""
    clamped = logprob.clamp(min=IMPOSSIBLE)
    own = torch.zeros(num_pieces, dtype=torch.float64, device=logprob.device)
    own = own.index_copy(0, torch.from_numpy(needed).to(logprob.device), clamped)
    return own.cumsum(0) - own


def added_covers(
    reading: Reading, parts: list[tuple[Entries, Asked, Answer]]
) -> Float64[Tensor, "row symbol"]:
    """The next symbol's mass at each wanted slot, up to a factor of the row.

    Args:
        reading: of the document.
        parts: entries with what was asked of them and answered, in the same order.
    """
    device = parts[0][0].logweight.device
    num_rows, rows = int(reading.wanted.sum()), reading.rows
    of_entry = [torch.from_numpy(rows[entries.at]).to(device) for entries, _, _ in parts]
    kept = [torch.from_numpy(reading.wanted[entries.at]).to(device) for entries, _, _ in parts]
    largest = torch.full((num_rows,), -torch.inf, dtype=torch.float64, device=device)
    for (entries, _, _), row, wanted in zip(parts, of_entry, kept, strict=True):
        weight = entries.logweight.detach()[wanted]
        largest = largest.scatter_reduce(0, row[wanted], weight, "amax")
    masses = torch.zeros(num_rows * NUM_SYMBOLS, dtype=torch.float64, device=device)
    for (entries, asked, answer), row, wanted in zip(parts, of_entry, kept, strict=True):
        owner, symbol = (
            torch.from_numpy(field).to(device)
            for field in (asked.ranges.owner, asked.ranges.symbol)
        )
        used = torch.nonzero(wanted[owner] & (symbol < NUM_SYMBOLS)).squeeze(-1)
        owner, cell = owner[used], (row[owner] * NUM_SYMBOLS + symbol)[used]
        factor = torch.exp(torch.where(wanted, entries.logweight - largest[row.clamp(min=0)], 0))
        masses = masses.index_add(0, cell, factor[owner] * answer.masses[used])
    return masses.view(num_rows, NUM_SYMBOLS)


def prefix_logmass(
    entries: Entries, answer: Answer, before: Bool[np.ndarray, "entry"], num_slots: int
) -> Float64[Tensor, "slot"]:
    """Log of the summed mass of all covers of the text before each slot.

    Args:
        entries: histories at slots.
        answer: their masses.
        before: True for an entry whose history ends before its slot.
        num_slots: of the document.
    """
    device = entries.logweight.device
    kept = torch.from_numpy(before).to(device)
    at = torch.from_numpy(entries.at).to(device)[kept]
    values = entries.logweight[kept] + answer.totals[kept].log()
    largest = torch.full((num_slots,), -torch.inf, dtype=torch.float64, device=device)
    largest = largest.scatter_reduce(0, at, values, "amax")
    finite = torch.where(torch.isinf(largest), 0, largest)
    sums = torch.zeros_like(largest).index_add(0, at, torch.exp(values - finite[at]))
    return finite + sums.log()
