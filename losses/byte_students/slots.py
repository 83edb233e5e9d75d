"""The bytes that both sides say something about, on the student's grid of tokens and bytes.

A slot is a byte of a scored token of the student. Its target is that byte; the one of an end of
turn is ``END``. The exact chain rule of a teacher's tokens has one slot more for each of its
tokens, after the last byte, with the target ``END_OF_TOKEN``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.byte_distributions.sorted_vocabulary import END, END_OF_TOKEN
from losses.signals import ByteDistributions, Signal, TokenByteDistributions


@dataclass(frozen=True)
class Places:
    """Places in a document that a distribution may stand at, in reading order.

    Args:
        positions: the byte; for a place that closes a token, the byte after the token.
        closes: True where the end of a token is predicted.
    """

    positions: Int64[np.ndarray, "place"]
    closes: Bool[np.ndarray, "place"]

    @classmethod
    def of(cls, signal: Signal) -> "Places":
        """Where the signal's rows stand.

        Raises:
            ValueError: the signal holds no distributions over bytes.
        """
        known = of_bytes(signal)
        if isinstance(known, TokenByteDistributions):
            return cls(known.positions.astype(np.int64), known.closes)
        return cls.of_bytes(known.positions)

    @classmethod
    def of_bytes(cls, positions: Int[np.ndarray, "place"]) -> "Places":
        """Places of bytes alone."""
        return cls(positions.astype(np.int64), np.zeros(len(positions), dtype=bool))

    @property
    def keys(self) -> Int64[np.ndarray, "place"]:
        """Numbers that rise in reading order: a token is closed before the next byte."""
        keys: Int64[np.ndarray, "place"] = 2 * self.positions + ~self.closes
        return keys


@dataclass(frozen=True)
class Slots:
    """What is compared, in reading order.

    Args:
        token: position of the student's token that the slot belongs to.
        place: which of the token's own bytes; the number of its bytes for the slot that closes it.
        target: the byte's value, ``END`` or ``END_OF_TOKEN``.
        row: the teacher's row.
        own: the student's row, among the places that were given.
    """

    token: Int64[np.ndarray, "slot"]
    place: Int64[np.ndarray, "slot"]
    target: Int64[np.ndarray, "slot"]
    row: Int64[np.ndarray, "slot"]
    own: Int64[np.ndarray, "slot"]

    @classmethod
    def match(
        cls,
        theirs: Places,
        ours: Places,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        vocabulary: Vocabulary,
    ) -> "Slots":
        """The places that both have.

        Args:
            theirs: of the teacher's rows.
            ours: of the student's, all within scored tokens.
            tokens: the student's.
            scored: its tokens that count.
            vocabulary: the student's.
        """
        _, row, own = np.intersect1d(
            theirs.keys, ours.keys, assume_unique=True, return_indices=True
        )
        closes, at = ours.closes[own], ours.positions[own]
        counted = np.flatnonzero(scored)
        ends = tokens.byte_ends[counted]
        token = counted[np.searchsorted(ends, at - closes, side="right")]
        ids, table = tokens.ids[token], vocabulary.byte_table
        widths = table.widths[ids]
        written = widths > 0
        place = np.where(written, widths - (tokens.byte_ends[token] - at), 0)
        read = written & ~closes
        target = np.full(len(at), END, dtype=np.int64)
        target[closes] = END_OF_TOKEN
        target[read] = table.content[table.starts[ids[read]] + place[read]]
        return cls(token, place, target, row, own)

    def __len__(self) -> int:
        return len(self.token)

    @property
    def closes(self) -> Bool[np.ndarray, "slot"]:
        """True for a slot that closes its token."""
        closes: Bool[np.ndarray, "slot"] = self.target == END_OF_TOKEN
        return closes

    @property
    def num_tokens(self) -> int:
        """Tokens with at least one slot."""
        return len(np.unique(self.token))

    def where(self, kept: Bool[np.ndarray, "slot"]) -> "Slots":
        """Some of the slots."""
        return Slots(
            self.token[kept], self.place[kept], self.target[kept], self.row[kept], self.own[kept]
        )


def of_bytes(signal: Signal) -> ByteDistributions | TokenByteDistributions:
    """The signal, known to hold distributions over bytes.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(signal, ByteDistributions | TokenByteDistributions):
        raise ValueError(
            f"a loss on bytes got a {type(signal).__name__} signal but reads ByteDistributions or "
            "TokenByteDistributions; pass the signal that the same method made"
        )
    return signal


def teacher_rows(
    signal: ByteDistributions | TokenByteDistributions, slots: Slots
) -> Float[Tensor, "slot symbol"]:
    """The teacher's log-probabilities (nats) at each slot, as sent: normalise them again."""
    return torch.from_numpy(signal.logprobs[slots.row])


def token_contents(
    ids: Int64[np.ndarray, "token"], vocabulary: Vocabulary, num_slots: int
) -> Int64[np.ndarray, "token slot"]:
    """The first bytes of each token; -1 beyond its end.

    >>> token_contents(np.array([1, 0]), Vocabulary((b"a", b"bcd")), 2).tolist()
    [[98, 99], [97, -1]]
    """
    table = vocabulary.byte_table
    offsets = np.arange(num_slots)
    inside = offsets < table.widths[ids][:, None]
    found = np.full((len(ids), num_slots), -1, dtype=np.int64)
    found[inside] = table.content[(table.starts[ids][:, None] + offsets)[inside]]
    return found
