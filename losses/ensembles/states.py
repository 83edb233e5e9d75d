"""Which of several teachers' hidden states speak for which rows of the student.

A teacher predicts the student's next token where one of its own tokens begins at the same byte:
at the first token of each common chunk. Inside a chunk it says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from losses.alignment.live import LiveChunks, known_tokens, live_chunks_of
from losses.alignment.tokens import Tokens
from losses.ensembles.ensemble import Said
from losses.signals import IdentifiedStates, Signal, expect


@dataclass(frozen=True)
class MemberRows:
    """One member's states and where they belong; never on the wire.

    Args:
        member: the member's place in the ensemble.
        weight: its weight on this document.
        hidden: its states, packed.
        row: for each of the student's rows, the state that predicts the same next byte; -1: none.
        begun: the member's token that this state predicts; 0 where there is none.
        later: for each further token of the members' chunks, the state that predicts it.
        later_ids: these tokens.
        later_row: the student's row at which their chunk begins.
    """

    member: int
    weight: float
    hidden: Shaped[np.ndarray, "sent hidden"]
    row: Int64[np.ndarray, "row"]
    begun: Int64[np.ndarray, "row"]
    later: Int64[np.ndarray, "later"]
    later_ids: Int64[np.ndarray, "later"]
    later_row: Int64[np.ndarray, "later"]


@dataclass(frozen=True)
class MixedStates(Signal):
    """The student's rows that some member speaks for, and each member's states.

    ``positions`` are the student's tokens that these rows predict, ``realised`` their ids.
    """

    positions: Int64[np.ndarray, "row"]
    realised: Int64[np.ndarray, "row"]
    members: tuple[MemberRows, ...]


def mixed_states(
    tokens: Tokens, scored: Bool[np.ndarray, "token"], said: Sequence[Said]
) -> MixedStates:
    """The members' states on the student's rows.

    Raises:
        ValueError: a member's tokens end at another byte than the student's.
    """
    sides = [expect(one.signal, IdentifiedStates) for one in said]
    chunks = [
        live_chunks_of(tokens, scored, s.byte_ends, known_tokens(len(s.ids), s.positions + 1))
        for s in sides
    ]
    positions: Int64[np.ndarray, "row"]
    positions = np.unique(np.concatenate([found.student_first for found in chunks]))
    rows = zip(said, sides, chunks, strict=True)
    members = tuple(_member_rows(one, side, found, positions) for one, side, found in rows)
    return MixedStates(positions, tokens.ids[positions].astype(np.int64), members)


def _member_rows(
    one: Said, side: IdentifiedStates, chunks: LiveChunks, positions: Int64[np.ndarray, "row"]
) -> MemberRows:
    states = np.full(len(side.ids), -1)  # which of the sent states predicts each token
    states[side.positions + 1] = np.arange(len(side.positions))
    at, firsts = np.searchsorted(positions, chunks.student_first), chunks.teacher_first
    row, begun = np.full(len(positions), -1), np.zeros(len(positions), dtype=np.int64)
    row[at], begun[at] = states[firsts], side.ids[firsts]
    later, of_chunk = _later_tokens(chunks)
    sent = states[later] >= 0  # a token of zero width is none of the chunk's
    return MemberRows(
        member=one.member,
        weight=one.weight,
        hidden=side.hidden,
        row=row,
        begun=begun,
        later=states[later[sent]],
        later_ids=side.ids[later[sent]].astype(np.int64),
        later_row=at[of_chunk[sent]],
    )


def _later_tokens(
    chunks: LiveChunks,
) -> tuple[Int64[np.ndarray, "later"], Int64[np.ndarray, "later"]]:
    """Positions of the teacher's tokens after each chunk's first one, and their chunks."""
    counts = chunks.teacher_last - chunks.teacher_first
    of_chunk = np.repeat(np.arange(len(chunks)), counts)
    nth = np.arange(len(of_chunk)) - np.repeat(np.cumsum(counts) - counts, counts)
    return chunks.teacher_first[of_chunk] + 1 + nth, of_chunk
