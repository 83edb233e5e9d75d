"""The teacher's rows written in the student's tokens, for the student's rows that they fit."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from losses.signals import Signal, TopTokens, unpack
from losses.token_matching.time_warping import Path


@dataclass(frozen=True)
class PrecededTokens(TopTokens):
    """The likeliest tokens of each row, and the token before it: 6k + 20 bytes a token."""

    before: Int32[np.ndarray, "row"]


@dataclass(frozen=True)
class MappedRows(Signal):
    """What some of the student's rows should be.

    Args:
        byte_ends: the teacher's, see ``TopTokens``.
        logprob: the teacher's, see ``TopTokens``.
        positions: of the student's rows, ascending.
        ids: student tokens; what stands beside a mass of zero has no meaning.
        mass: their log-probabilities (nats), -inf pads.
        rest: log-probability of all other tokens.
    """

    byte_ends: Int32[np.ndarray, "token"]
    logprob: Float32[np.ndarray, "token"]
    positions: Int64[np.ndarray, "row"]
    ids: Int64[np.ndarray, "row listed"]
    mass: Float32[np.ndarray, "row listed"]
    rest: Float32[np.ndarray, "row"]


@dataclass(frozen=True)
class Listed:
    """The teacher's rows as log-probabilities (nats) of its own tokens.

    Args:
        ids: listed tokens, the realised one first.
        mass: log-probabilities.
        tail: log-probability of all others.
    """

    ids: Int64[np.ndarray, "row listed"]
    mass: Float64[np.ndarray, "row listed"]
    tail: Float64[np.ndarray, "row"]

    @classmethod
    def of(cls, signal: TopTokens, rows: Int64[np.ndarray, "row"]) -> "Listed":
        """Some rows of a signal."""
        own = signal.logprob[signal.known].astype(np.float64)[rows]
        others = unpack(signal.others[rows]).double().numpy()
        ids = np.concatenate([signal.realised[rows, None], signal.ids[rows]], axis=1)
        mass = np.concatenate([own[:, None], others], axis=1)
        return cls(ids.astype(np.int64), mass, signal.tail[rows].astype(np.float64))

    @property
    def descending(self) -> "Listed":
        """The same, the likeliest first."""
        order = np.argsort(-self.mass, axis=-1, kind="stable")
        return self._ordered(order)

    @property
    def by_id(self) -> "Listed":
        """The same in the order of the ids."""
        return self._ordered(np.argsort(self.ids, axis=-1, kind="stable"))

    def first(self, k: int) -> "Listed":
        """The first ``k`` of each row alone; no mass is left for others."""
        nothing = np.full(len(self.tail), -np.inf)
        return Listed(self.ids[:, :k], self.mass[:, :k], nothing)

    def _ordered(self, order: Int64[np.ndarray, "row listed"]) -> "Listed":
        ids, mass = (np.take_along_axis(a, order, axis=-1) for a in (self.ids, self.mass))
        return Listed(ids, mass, self.tail)


def summed(listed: Listed, partners: Int64[np.ndarray, "row listed"]) -> Listed:
    """In student tokens: masses of the same partner add up; without a partner they go to the rest.

    Args:
        listed: the teacher's rows.
        partners: each listed token's student token, -1 for none.
    """
    rows = np.broadcast_to(np.arange(len(partners))[:, None], partners.shape)
    there = partners >= 0
    width = int(partners.max(initial=0)) + 1
    keys, entry = np.unique((rows * width + partners)[there], return_inverse=True)
    masses = np.bincount(entry.ravel(), np.exp(listed.mass[there]), minlength=len(keys))
    lost = np.where(there, 0, np.exp(listed.mass)).sum(-1) + np.exp(listed.tail)
    with np.errstate(divide="ignore"):
        masses, lost = np.log(masses), np.log(lost)
    return Listed(*_padded(keys // width, keys % width, masses, len(lost)), lost)


def first_of_each(listed: Listed, partners: Int64[np.ndarray, "row listed"]) -> Listed:
    """The same, but of several tokens with the same partner the first alone counts; no rest."""
    rows = np.broadcast_to(np.arange(len(partners))[:, None], partners.shape)
    there = partners >= 0
    width = int(partners.max(initial=0)) + 1
    keys, first = np.unique((rows * width + partners)[there], return_index=True)
    mass, nothing = listed.mass[there][first], np.full(len(partners), -np.inf)
    return Listed(*_padded(keys // width, keys % width, mass, len(partners)), nothing)


def one_to_one(path: Path) -> Bool[np.ndarray, "step"]:
    """True for a step whose tokens are matched with each other alone."""
    found: Bool[np.ndarray, "step"] = alone(path.student) & alone(path.teacher)
    return found


def alone(tokens: Int64[np.ndarray, "step"]) -> Bool[np.ndarray, "step"]:
    """True for a step whose token occurs in no other step."""
    found: Bool[np.ndarray, "step"] = np.bincount(tokens)[tokens] == 1
    return found


def with_single_tokens(
    target: Listed,
    rows: Int64[np.ndarray, "kept"],
    tokens: Int64[np.ndarray, "row"],
) -> Listed:
    """``target`` at these rows; at all others the one token has all the mass."""
    shape = (len(tokens), target.ids.shape[1])
    ids, mass = np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf)
    ids[:, 0], mass[:, 0] = tokens, 0
    ids[rows], mass[rows] = target.ids, target.mass
    return Listed(ids, mass, np.full(len(tokens), -np.inf))


def _padded(
    rows: Int64[np.ndarray, "entry"],
    ids: Int64[np.ndarray, "entry"],
    mass: Float64[np.ndarray, "entry"],
    num_rows: int,
) -> tuple[Int64[np.ndarray, "row listed"], Float64[np.ndarray, "row listed"]]:
    """Entries in the order of their rows as a table."""
    counts = np.bincount(rows, minlength=num_rows)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (num_rows, int(counts.max(initial=1)))
    found, masses = np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf)
    found[rows, place], masses[rows, place] = ids, mass
    return found, masses
