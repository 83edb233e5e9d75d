"""The teacher's mean log-probabilities at merged positions, from the lists of its rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from losses.signals import TopTokens, unpack
from losses.token_matching.context_tokens import LEAST
from losses.token_matching.merging import Members


@dataclass(frozen=True)
class MergedTeacher:
    """Mean log-probabilities (nats) of all tokens that a position's rows list.

    A token that a row does not list has an even share of the mass left there.

    Args:
        keys: position times ``num_ids`` plus token id, ascending.
        values: the means.
        unlisted: the mean of a token that no row of the position lists.
        num_ids: ids of the teacher's vocabulary.
    """

    keys: Int64[np.ndarray, "entry"]
    values: Float64[np.ndarray, "entry"]
    unlisted: Float64[np.ndarray, "position"]
    num_ids: int

    def largest(self, k: int) -> Int64[np.ndarray, "position k"]:
        """The ``k`` likeliest listed tokens of each position, the likeliest first; -1 pads."""
        position = self.keys // self.num_ids
        order = np.lexsort((-self.values, position))
        starts = np.searchsorted(position, np.arange(len(self.unlisted)))
        rank = np.arange(len(order)) - starts[position]
        found = np.full((len(self.unlisted), k), -1)
        kept = rank < k
        ids = self.keys[order] % self.num_ids
        found[position[kept], rank[kept]] = ids[kept]
        return found

    def at(self, ids: Int64[np.ndarray, "position k"]) -> Float64[np.ndarray, "position k"]:
        """The means of some tokens of each position; what stands at -1 has no meaning."""
        wanted = np.arange(len(ids))[:, None] * self.num_ids + ids
        place = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, self.values[place], self.unlisted[:, None])


def merge_teacher(signal: TopTokens, members: Members, num_ids: int) -> MergedTeacher:
    """Mean over the members of each position; ``members.token`` are the signal's rows."""
    others = unpack(signal.others).double().numpy()
    own = signal.logprob[signal.known].astype(np.float64)
    listed = np.maximum(np.concatenate([own[:, None], others], axis=1), LEAST)
    ids = np.concatenate([signal.realised[:, None], signal.ids], axis=1).astype(np.int64)
    num_left = num_ids - ids.shape[1]
    left = np.maximum(signal.tail - np.log(num_left), LEAST) if num_left else np.zeros(len(own))
    position, rows, weight = members.position, members.token, members.weight
    unlisted = np.bincount(position, weight * left[rows], members.num_positions)
    keys = position[:, None] * num_ids + ids[rows]
    above = weight[:, None] * (listed - left[:, None])[rows]
    keys, entry = np.unique(keys, return_inverse=True)
    values = np.bincount(entry.ravel(), above.ravel()) + unlisted[keys // num_ids]
    return MergedTeacher(keys, values, unlisted, num_ids)


def merge_normaliser(
    normaliser: Float64[np.ndarray, "row"], members: Members
) -> Float64[np.ndarray, "position"]:
    """Mean of what log-probabilities lack to be logits."""
    terms = members.weight * normaliser[members.token]
    return np.bincount(members.position, terms, members.num_positions)
