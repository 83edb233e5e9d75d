"""The student's side of merged positions: what is chosen by, and values with a gradient.

Choices (entropies, likeliest tokens) carry no gradient; the table of log-probabilities is read in
blocks, and nothing else of its size is made.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from losses.chunk_distributions.top_tokens import largest
from losses.divergence import ELEMENTS_IN_CACHE
from losses.prediction import Prediction
from losses.signals import pack
from losses.token_matching.context_tokens import entropies
from losses.token_matching.merging import Members


@dataclass(frozen=True)
class StudentRows:
    """Each row's entropy (nats) and its likeliest tokens, the likeliest first."""

    entropy: Float64[np.ndarray, "row"]
    ids: Int64[np.ndarray, "row k"]


def student_rows(student: Prediction, positions: Int64[Tensor, "row"], k: int) -> StudentRows:
    """One pass over the rows at these positions."""
    k = min(k, student.head.num_valid)

    def read(table: Float[Tensor, "any vocab"], rows: Int64[Tensor, "row"]) -> Tensor:
        blocks = rows.split(_rows_in_cache(table))
        found = [_chosen(table.detach().index_select(0, block), k) for block in blocks]
        return torch.cat(found)

    parts = student.parts(np.ones(len(positions), dtype=np.int64))
    found = torch.cat([student.map_table(read, positions[part]) for part in parts])
    columns = pack(found)
    return StudentRows(columns[:, 0].astype(np.float64), columns[:, 1:].astype(np.int64))


def merged_largest(
    student: Prediction,
    positions: Int64[Tensor, "row"],
    members: Members,
    alone: Int64[np.ndarray, "row k"],
) -> Int64[np.ndarray, "position k"]:
    """The likeliest tokens of each merged position by the mean of its rows' log-probabilities.

    Args:
        student: the student's prediction.
        positions: of the rows that ``members.token`` numbers.
        members: which rows are averaged.
        alone: each row's own likeliest tokens.
    """
    found: Int64[np.ndarray, "position k"] = alone[members.token[members.starts[:-1]]]
    several = np.flatnonzero(members.sizes > 1)
    for part in student.parts(members.sizes[several]):
        if len(chosen := several[part]):
            found[chosen] = _largest_of_means(student, positions, members, chosen, alone.shape[1])
    return found


def _largest_of_means(
    student: Prediction,
    positions: Int64[Tensor, "row"],
    members: Members,
    chosen: Int64[np.ndarray, "chosen"],
    k: int,
) -> Int64[np.ndarray, "chosen k"]:
    """Of some merged positions."""
    rows = torch.from_numpy(members.token[np.isin(members.position, chosen)]).to(student.device)
    counts = members.sizes[chosen].tolist()

    def read(table: Float[Tensor, "any vocab"], numbers: Int64[Tensor, "row"]) -> Tensor:
        means = (table.detach().index_select(0, one).mean(0) for one in numbers.split(counts))
        return torch.stack([_descending(row[None], k)[0] for row in means])

    return pack(student.map_table(read, positions[rows]))


def mean_logprobs(
    student: Prediction,
    positions: Int64[Tensor, "row"],
    members: Members,
    ids: Int64[np.ndarray, "position n"],
) -> Float[Tensor, "position n"]:
    """Mean log-probabilities (nats) of some tokens of each merged position, with a gradient."""
    device = student.device
    asked = torch.from_numpy(ids).to(device)

    def means(part: slice) -> Float[Tensor, "part n"]:
        inside = slice(members.starts[part.start], members.starts[part.stop])
        position = torch.from_numpy(members.position[inside]).to(device)
        rows = torch.from_numpy(members.token[inside]).to(device)
        weight = torch.from_numpy(members.weight[inside]).to(device).unsqueeze(-1)

        def read(table: Float[Tensor, "any vocab"], numbers: Int64[Tensor, "row"]) -> Tensor:
            values = table[numbers.unsqueeze(-1), asked[position]] * weight.to(table)
            sums = values.new_zeros(part.stop - part.start, values.shape[1])
            return sums.index_add(0, position - part.start, values)

        return student.map_table(read, positions[rows])

    return torch.cat([means(part) for part in student.parts(members.sizes)])


def _chosen(rows: Float[Tensor, "row vocab"], k: int) -> Float[Tensor, "row k_plus_one"]:
    """Entropy, then the ids of the likeliest tokens (below 2²⁴, exact in fp32)."""
    return torch.cat([entropies(rows), _descending(rows, k).to(rows)], dim=-1)


def _descending(rows: Float[Tensor, "row vocab"], k: int) -> Int64[Tensor, "row k"]:
    ids = largest(rows, k)
    order = rows.gather(-1, ids).argsort(dim=-1, descending=True)
    return ids.gather(-1, order)


def _rows_in_cache(table: Float[Tensor, "any vocab"]) -> int:
    return max(1, ELEMENTS_IN_CACHE // table.shape[-1])
