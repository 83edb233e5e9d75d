"""Scores as log-probabilities of the student's tokens, and the mass that they leave to others.

Where the teacher says how likely a token is, the student's own opinion does not count: a label
that multiplies both is surer than the student at every step, until one candidate has it all.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.reencoding.candidates import Candidates
from losses.reencoding.pseudo_labels import Entries

NOTHING = -1e3
"""A log-probability (nats) that is zero as a probability."""


@dataclass(frozen=True)
class Cells:
    """What each row's tokens get, and what all its other tokens have together (nats).

    ``entropy`` (nats) is the teacher's, where candidates that share a token are one.
    """

    entries: Entries
    rest: Float64[np.ndarray, "row"]
    entropy: Float64[np.ndarray, "row"]


@dataclass(frozen=True)
class Left:
    """What has no token, group by group.

    Args:
        part: of all mass.
        entropy: how unsure the teacher is, given that it is none of the candidates (nats).
    """

    part: Float64[np.ndarray, "group"]
    entropy: Float64[np.ndarray, "group"]


def cells_of(
    summed: Entries,
    left: Left,
    written: Int64[np.ndarray, "row"],
    rows: ChunkRows,
    num_ids: int,
) -> Cells:
    """Each row as one distribution.

    In a row inside a group scores are relative to the candidates that begin as the student wrote;
    of these some have ended, which says nothing of the next token. What has no token is taken to
    begin so as often as what has one.

    Args:
        summed: the masses of rows and tokens, one entry each, in the order of rows and tokens.
        left: what is none of them.
        written: the student's token in each row.
        rows: the groups.
        num_ids: tokens of the student's vocabulary.
    """
    group = np.repeat(np.arange(rows.num_chunks), rows.student_count)
    parts = left.part[group]
    scale = np.log1p(-parts.clip(max=1 - 1e-12)) - _begun(summed, written, group, num_ids)
    mass = summed.mass + scale[summed.row]
    total = _sums(summed.row, np.exp(mass), len(group))
    full = np.bincount(summed.row, minlength=len(group)) == num_ids
    mass -= np.log(np.where(full, total, 1))[summed.row]
    rest = np.where(full, 0, 1 - total).clip(min=0)
    log_rest = np.log(rest.clip(min=np.exp(NOTHING / 2)))
    listed = _sums(summed.row, -np.exp(mass) * mass, len(group))
    entropy = listed + rest * (left.entropy[group] - log_rest)
    return Cells(replace(summed, mass=mass), np.where(rest > 0, log_rest, NOTHING), entropy)


def left_of(
    found: Candidates, kept: Int64[np.ndarray, "kept"], most: Float64[np.ndarray, "group"]
) -> Left:
    """What is left beside the candidates that have a token.

    Args:
        found: all candidates.
        kept: those that have one.
        most: no group's entropy is above this (nats).
    """
    probability = np.exp(found.mass)
    has_token = np.zeros(len(probability), dtype=bool)
    has_token[kept] = True

    listed = _sums(found.group, np.where(has_token, probability, 0), len(most))
    left = np.exp(found.left) + _sums(found.group, np.where(has_token, 0, probability), len(most))
    part = left / np.maximum(listed + left, np.finfo(np.float64).tiny)
    known = np.where(has_token, -probability * found.mass, 0)
    of_listed = _sums(found.group, known, len(most))
    safe = left.clip(min=np.exp(NOTHING / 2))
    entropy = ((found.entropy - of_listed) / safe + np.log(safe)).clip(0, most)
    return Left(part, entropy)


def _begun(
    summed: Entries,
    written: Int64[np.ndarray, "row"],
    group: Int64[np.ndarray, "row"],
    num_ids: int,
) -> Float64[np.ndarray, "row"]:
    """The mass (nats) of the candidates that begin as the student wrote, up to each row."""
    mass = _sums(summed.row, np.exp(summed.mass), len(group))
    begun: Float64[np.ndarray, "row"] = np.log(mass.clip(min=np.finfo(np.float64).tiny))
    inside = np.flatnonzero(np.diff(group, prepend=-1) == 0)
    keys = summed.row * num_ids + summed.ids
    wanted = (inside - 1) * num_ids + written[inside - 1]
    place = np.searchsorted(keys, wanted)
    there = np.append(keys, -1)[place] == wanted
    begun[inside[there]] = summed.mass[place[there]]
    return begun


def _sums(
    places: Int64[np.ndarray, "entry"], values: Float64[np.ndarray, "entry"], count: int
) -> Float64[np.ndarray, "place"]:
    """What the values of each place add up to; without any, bincount would count in integers."""
    sums: Float64[np.ndarray, "place"] = np.bincount(places, values, minlength=count).astype(
        np.float64
    )
    return sums
