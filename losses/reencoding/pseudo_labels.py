"""The scores that a document's student rows get: what the student knows ahead of its forward.

The first token of a candidate's text scores in the row before the group, its later tokens in the
rows inside the group. A later token counts only where the text so far is what the student really
wrote: it would otherwise be put behind a text that it does not belong to.

Source: SeDi, AAAI 2026 (article 40637); the check, the sum of collisions and the scores that do
not depend on the teacher's offset are ours.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.reencoding.candidates import Candidates
from losses.reencoding.reencoder import Pieces
from losses.signals import Signal

Own: TypeAlias = Literal["rest", "added"]
"""Where the student's own logits stand in its pseudo-label."""


@dataclass(frozen=True)
class PseudoLabels(Signal):
    """The student's rows of the common groups: the scores of which tokens, in nats.

    Row ``r`` predicts the token at ``positions[r]``; ``groups[r]`` is its group, which never
    falls. With ``own`` "rest" scores are log-probabilities, ``rest`` is that of all other tokens
    together, and a row with fewer tokens repeats its first. With "added" scores are what is added
    to the student's logits, zero where a row has fewer tokens, and ``rest`` is not read.
    ``entropy`` (nats) is the teacher's. ``byte_ends`` and ``logprob`` are those of its signal.
    """

    byte_ends: Int32[np.ndarray, "teacher_token"]
    logprob: Float32[np.ndarray, "teacher_token"]
    positions: Int64[np.ndarray, "row"]
    groups: Int64[np.ndarray, "row"]
    entropy: Float32[np.ndarray, "row"]
    ids: Int32[np.ndarray, "row listed"]
    scores: Float32[np.ndarray, "row listed"]
    rest: Float32[np.ndarray, "row"]
    own: Own
    num_left_out: int
    """Candidates with later tokens behind a text that the student did not write."""

    def tensors(self, device: torch.device) -> "LabelTensors":
        """What the loss reads, on its device."""
        arrays = (self.positions, self.ids.astype(np.int64), self.scores, self.entropy, self.rest)
        positions, ids, scores, entropy, rest = (torch.from_numpy(a).to(device) for a in arrays)
        return LabelTensors(positions, ids, scores, entropy, rest, self.own)


@dataclass(frozen=True)
class LabelTensors:
    """``PseudoLabels`` on a device."""

    positions: Int64[Tensor, "row"]
    ids: Int64[Tensor, "row listed"]
    scores: Float32[Tensor, "row listed"]
    entropy: Float32[Tensor, "row"]
    rest: Float32[Tensor, "row"]
    own: Own

    def cut(self, part: slice) -> "LabelTensors":
        """These rows."""
        return LabelTensors(
            self.positions[part],
            self.ids[part],
            self.scores[part],
            self.entropy[part],
            self.rest[part],
            self.own,
        )


@dataclass(frozen=True)
class Entries:
    """A token of a candidate's text in one of the student's rows.

    Args:
        row: number of the row, over the student tokens of all groups.
        ids: the student token.
        mass: the candidate's (nats); of equal rows and ids the largest first.
        group: the candidate's group.
    """

    row: Int64[np.ndarray, "entry"]
    ids: Int64[np.ndarray, "entry"]
    mass: Float64[np.ndarray, "entry"]
    group: Int64[np.ndarray, "entry"]

    def above(self, least: Float64[np.ndarray, "group"]) -> "Entries":
        """The same with masses relative to the group's least: no offset of the teacher counts."""
        return replace(self, mass=self.mass - least[self.group])


def entries_of(
    found: Candidates,
    numbers: Int64[np.ndarray, "candidate"],
    pieces: Pieces,
    rows: ChunkRows,
    written: Int64[np.ndarray, "student_token"] | None,
) -> tuple[Entries, int]:
    """All tokens of the candidates' texts that have a row.

    Args:
        found: the candidates.
        numbers: their rows of ``pieces``.
        pieces: the re-encoded texts.
        rows: the groups.
        written: the student's tokens of all groups, which the text before a later token must be;
            None: it may be anything, as published.

    Returns:
        The entries, and how many candidates lost later tokens because they differ.
    """
    count, lengths = rows.student_count, pieces.lengths(numbers)
    begins = np.cumsum(count) - count
    alive, place, left_out = np.flatnonzero(lengths > 0), 0, 0
    parts: list[tuple[np.ndarray, ...]] = []
    while len(alive) or not parts:
        group = found.group[alive]
        ids, row = pieces.at(numbers[alive], place), begins[group] + place
        parts.append((row, ids, found.mass[alive], group))
        place += 1
        longer = (lengths[alive] > place) & (count[group] > place)
        if written is not None:
            same = ids == written[row]
            left_out += int((longer & ~same).sum())
            longer &= same
        alive = alive[longer]
    row, ids, mass, group = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Entries(row, ids, mass, group), left_out


def combined(entries: Entries, num_ids: int, *, last: bool) -> Entries:
    """One entry for each row and id: the sum of the probabilities, or the least likely one."""
    key = entries.row * num_ids + entries.ids
    order = np.argsort(key, kind="stable")
    key, mass = key[order], entries.mass[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    if last:
        mass = mass[np.append(starts[1:], len(key)) - 1] if len(key) else mass
    else:
        mass = np.logaddexp.reduceat(mass, starts) if len(key) else mass
    first = order[starts]
    return Entries(entries.row[first], entries.ids[first], mass, entries.group[first])


def padded(
    entries: Entries, kept: Bool[np.ndarray, "row"], *, repeat: bool
) -> tuple[Int32[np.ndarray, "kept listed"], Float32[np.ndarray, "kept listed"]]:
    """Ids and masses by row, of the rows that are kept; entries are in the order of their rows.

    A row with fewer entries repeats its first, or has id 0 with a mass of zero.
    """
    counts = np.bincount(entries.row, minlength=len(kept))
    place = np.arange(len(entries.row)) - (np.cumsum(counts) - counts)[entries.row]
    ids = np.zeros((len(kept), int(counts.max(initial=0))), dtype=np.int32)
    scores = np.zeros(ids.shape, dtype=np.float32)
    ids[entries.row, place] = entries.ids
    scores[entries.row, place] = entries.mass
    if repeat and ids.shape[1]:
        pads = np.arange(ids.shape[1]) >= counts[:, None]
        ids, scores = np.where(pads, ids[:, :1], ids), np.where(pads, scores[:, :1], scores)
    return ids[kept], scores[kept]
