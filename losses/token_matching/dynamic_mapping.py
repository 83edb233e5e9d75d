"""Partners of likely tokens in the other vocabulary, position by position.

A token whose bytes (or role) the other vocabulary has too keeps that partner everywhere. Any other
one looks for a likely token of the other side at the same position that is spelled almost alike.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from losses.alignment.projection import Projection
from losses.alignment.vocabulary import Vocabulary
from losses.chunk_distributions.matched import matched_of
from losses.token_matching.spelling import edit_distances, spelled, spellings


@dataclass(frozen=True)
class Exact:
    """Each token's partner with the same bytes or role, -1 for none."""

    to_student: Int64[np.ndarray, "teacher_id"]
    to_teacher: Int64[np.ndarray, "student_id"]


@lru_cache(maxsize=16)
def exact_partners(projection: Projection) -> Exact:
    """The exact pairs of W."""
    matched = matched_of(projection, torch.device("cpu"), "strict")
    students, teachers = matched.students.numpy(), matched.teachers.numpy()
    to_student = np.full(projection.num_teacher, -1)
    to_teacher = np.full(projection.num_student, -1)
    to_student[teachers], to_teacher[students] = students, teachers
    return Exact(to_student, to_teacher)


@dataclass(frozen=True)
class Likely:
    """One side's likeliest tokens.

    Args:
        ids: at each position, the likeliest first; -1 pads.
        partner: the exact partner of every id of the vocabulary, -1 for none.
        vocabulary: the vocabulary.
        by_character: how its tokens are spelled, see ``spellings``.
    """

    ids: Int64[np.ndarray, "position k"]
    partner: Int64[np.ndarray, "id"]
    vocabulary: Vocabulary
    by_character: bool

    @property
    def without_partner(self) -> Bool[np.ndarray, "position k"]:
        """True where a token has text and no exact partner."""
        found: Bool[np.ndarray, "position k"] = self.has_text & (self.partner[self.ids] < 0)
        return found

    @property
    def has_text(self) -> Bool[np.ndarray, "position k"]:
        """True where a token stands for bytes; special tokens are paired by role alone."""
        found: Bool[np.ndarray, "position k"] = (self.ids >= 0) & _text_ids(self.vocabulary)[
            self.ids
        ]
        return found

    def texts(
        self, position: int, chosen: Bool[np.ndarray, "k"]
    ) -> tuple[list[str], Int64[np.ndarray, "n"]]:
        """Spellings of the chosen tokens at a position, and their places in the list."""
        places = np.flatnonzero(chosen)
        known = spellings(self.vocabulary, by_character=self.by_character)
        return spelled(known, self.ids[position, places]), places


class Close(NamedTuple):
    """Pairs below the threshold: where, places in both lists, lev(a, b) / (len a + len b)."""

    position: Int64[np.ndarray, "pair"]
    source: Int64[np.ndarray, "pair"]
    target: Int64[np.ndarray, "pair"]
    distance: Float64[np.ndarray, "pair"]


def partners(source: Likely, target: Likely, threshold: float) -> Int64[np.ndarray, "position k"]:
    """Each source token's partner at its position, -1 for none.

    At a position no two tokens find the same partner: the closest pair is joined first, then the
    likelier source, then the likelier target. Tokens with an exact partner are not to be had.

    Args:
        source: whose partners are sought.
        target: where.
        threshold: a pair is joined below this distance.
    """
    close = _close_pairs(source, target, threshold, target.without_partner)
    found = np.where(source.ids >= 0, source.partner[source.ids], -1)
    free = np.ones(target.ids.shape, dtype=bool)
    order = np.lexsort((close.target, close.source, close.distance, close.position))
    pairs = (close.position[order], close.source[order], close.target[order])
    for position, i, j in zip(*(column.tolist() for column in pairs), strict=True):
        if found[position, i] < 0 and free[position, j]:
            found[position, i] = target.ids[position, j]
            free[position, j] = False
    return found


def published_partners(
    source: Likely, target: Likely, threshold: float
) -> Int64[np.ndarray, "position k"]:
    """The same as stored in the published code.

    A pair that was found at one position holds at all of them. The target must not have the id,
    in its own vocabulary, of a source token without a partner (meant was, it seems: a target that
    has one). Several tokens may find the same partner.
    """
    close = _close_pairs(source, target, threshold, target.has_text)
    table = source.partner.copy()
    starts = np.searchsorted(close.position, np.arange(len(source.ids) + 1))
    for position in np.flatnonzero(np.diff(starts)).tolist():
        here = slice(starts[position], starts[position + 1])
        listed = source.ids[position]
        barred = listed[(listed >= 0) & (table[listed] < 0)]
        allowed = ~np.isin(target.ids[position, close.target[here]], barred)
        order = np.lexsort((close.target[here], close.distance[here], close.source[here]))
        for i, j in zip(
            close.source[here][order][allowed[order]].tolist(),
            close.target[here][order][allowed[order]].tolist(),
            strict=True,
        ):
            if table[listed[i]] < 0:
                table[listed[i]] = target.ids[position, j]
    return np.where(source.ids >= 0, table[source.ids], -1)


def _close_pairs(
    source: Likely, target: Likely, threshold: float, targets: Bool[np.ndarray, "position k"]
) -> Close:
    """All pairs of a source without a partner and one of the targets, by position."""
    sources, found = source.without_partner, []
    for position in np.flatnonzero(sources.any(1) & targets.any(1)).tolist():
        ours, places = source.texts(position, sources[position])
        theirs, other_places = target.texts(position, targets[position])
        lengths = np.array([len(t) for t in ours])[:, None] + [len(t) for t in theirs]
        distance = edit_distances(ours, theirs) / np.maximum(lengths, 1)
        i, j = np.nonzero(distance < threshold)
        found.append((np.full(len(i), position), places[i], other_places[j], distance[i, j]))
    if not found:
        nothing = np.zeros(0, dtype=np.int64)
        return Close(nothing, nothing, nothing, nothing.astype(np.float64))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return Close(*columns)


@lru_cache(maxsize=16)
def _text_ids(vocabulary: Vocabulary) -> Bool[np.ndarray, "id"]:
    return np.array([bool(content) for content in vocabulary.token_bytes])
