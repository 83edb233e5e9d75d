"""The likely continuations of each group, as the teacher's tokens.

A group of several teacher tokens is predicted by several rows. With the window ``chain`` each row
gives its alternatives with the probability that the group gets that far, so that all together
are one distribution of what follows the group before. With ``last``, as published, only the row
of the group's last token counts, as if the tokens before it were certain.

Source: SeDi, AAAI 2026 (article 40637), the sliding window; ``chain`` is ours.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.reencoding.teacher_rows import TopTokensWithEntropy
from losses.signals import unpack

Window: TypeAlias = Literal["chain", "last"]


@dataclass(frozen=True)
class Candidates:
    """Teacher tokens, group by group, the likeliest of a group first.

    Args:
        group: whose continuation it is; never falls.
        token: position of the teacher token in whose place it could stand.
        ids: the teacher tokens.
        mass: log-probability (nats) of what the teacher wrote of the group and then this token.
        least: the mass of each group's last candidate (nats).
        left: the mass of all other continuations of each group (nats), -inf for none.
        entropy: how unsure the teacher is of each group (nats).
    """

    group: Int64[np.ndarray, "candidate"]
    token: Int64[np.ndarray, "candidate"]
    ids: Int64[np.ndarray, "candidate"]
    mass: Float64[np.ndarray, "candidate"]
    least: Float64[np.ndarray, "group"]
    left: Float64[np.ndarray, "group"]
    entropy: Float64[np.ndarray, "group"]

    def only(self, kept: Int64[np.ndarray, "kept"]) -> "Candidates":
        """These candidates, of the same groups."""
        return replace(
            self,
            group=self.group[kept],
            token=self.token[kept],
            ids=self.ids[kept],
            mass=self.mass[kept],
        )

    def plus(self, levels: Float64[np.ndarray, "candidate"]) -> "Candidates":
        """The same with other masses."""
        return replace(self, mass=self.mass + levels)


def candidates_of(top: TopTokensWithEntropy, rows: ChunkRows, k: int, window: Window) -> Candidates:
    """The k likeliest continuations of each group.

    The realised token is one of them only if it is among the k: a list that always holds it would
    tell the label.
    """
    tokens = np.flatnonzero(rows.alignment.teacher_chunk >= 0)
    group = rows.alignment.teacher_chunk[tokens]
    last = tokens == rows.alignment.teacher_last[group]
    before = _mass_before(top.logprob[tokens].astype(np.float64), group)
    if window == "last":
        tokens, group, last = tokens[last], group[last], last[last]
        before = np.zeros(len(tokens))
    number = top.row_of(tokens)
    mass = _listed_mass(top, number) + before[:, None]
    mass[~last, 0] = -np.inf  # the group goes on: the next row says how
    ids = np.concatenate([top.realised[number, None], top.ids[number]], axis=-1)
    entropy = np.zeros(rows.num_chunks)
    np.add.at(entropy, group, np.exp(before) * top.entropy[number])
    kept, flat_group = _likeliest(mass, group, k)
    left = np.zeros(rows.num_chunks)
    np.add.at(left, group, np.exp(before + top.tail[number]))
    others = mass.ravel().copy()
    others[kept] = -np.inf
    np.add.at(left, flat_group, np.exp(others))
    return Candidates(
        group=flat_group[kept],
        token=np.repeat(tokens, ids.shape[1])[kept],
        ids=ids.ravel()[kept].astype(np.int64),
        mass=mass.ravel()[kept],
        least=_last_of_groups(mass.ravel()[kept], flat_group[kept], rows.num_chunks),
        left=_log(left),
        entropy=entropy,
    )


def levels_of(top: TopTokensWithEntropy, found: Candidates) -> Float64[np.ndarray, "candidate"]:
    """What the raw logits of the candidates' rows lie above log-probabilities (nats)."""
    levels: Float64[np.ndarray, "candidate"] = top.level[top.row_of(found.token)].astype(np.float64)
    return levels


def _mass_before(
    logprob: Float64[np.ndarray, "token"], group: Int64[np.ndarray, "token"]
) -> Float64[np.ndarray, "token"]:
    """Log-probability (nats) of the group's tokens before each one; 0 for the first."""
    reached = np.cumsum(logprob) - logprob
    first = np.flatnonzero(np.diff(group, prepend=-1) > 0)
    before: Float64[np.ndarray, "token"] = reached - reached[first][group]
    before[first] = 0
    return before


def _listed_mass(
    top: TopTokensWithEntropy, number: Int64[np.ndarray, "row"]
) -> Float64[np.ndarray, "row listed"]:
    """Log-probabilities (nats) of the rows' listed tokens, the realised one first."""
    realised = top.logprob[top.known][number].astype(np.float64)
    others = unpack(top.others[number]).to(torch.float64).numpy()
    return np.concatenate([realised[:, None], others], axis=-1)


def _likeliest(
    mass: Float64[np.ndarray, "row listed"], group: Int64[np.ndarray, "row"], k: int
) -> tuple[Int64[np.ndarray, "candidate"], Int64[np.ndarray, "all"]]:
    """The k largest finite entries of each group, largest first, and the group of every entry."""
    flat, owner = mass.ravel(), np.repeat(group, mass.shape[1])
    order = np.lexsort((-flat, owner))
    owners = owner[order]
    place = np.arange(len(order)) - np.searchsorted(owners, owners)
    fits: Bool[np.ndarray, "all"] = (place < k) & np.isfinite(flat[order])
    return order[fits], owner


def _log(values: Float64[np.ndarray, "group"]) -> Float64[np.ndarray, "group"]:
    with np.errstate(divide="ignore"):
        logs: Float64[np.ndarray, "group"] = np.log(values)
    return logs


def _last_of_groups(
    mass: Float64[np.ndarray, "candidate"], group: Int64[np.ndarray, "candidate"], num_groups: int
) -> Float64[np.ndarray, "group"]:
    least = np.zeros(num_groups)
    least[group] = mass  # of several, the last one stays
    return least
