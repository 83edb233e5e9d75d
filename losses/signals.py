"""The typed signals that methods share: small, per document, laid out along its bytes.

A signal is a pure function of the teacher (weights version, tokenizer, options) and the
document. It knows nothing of the student, so one cached signal serves any student. Arrays are
numpy: Ray then moves them as out-of-band buffers. numpy has no bfloat16, so such arrays travel
as their int16 bit patterns (``pack`` and ``unpack``).
"""

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Int32, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Signal:
    """What one teacher says about one document for one method."""

    @property
    def num_bytes(self) -> int:
        """Bytes on the wire, without the envelope."""
        values = (getattr(self, field.name) for field in fields(self))
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


@dataclass(frozen=True)
class TokenLikelihoods(Signal):
    """How likely the document's own tokens are: 12 bytes a token.

    ``logprob`` (nats) is NaN where the token is not scored or nothing predicts it (no start token
    before it). ``border_logprob`` (nats): log-probability that the token after this one begins a
    word (or ends the document: the method's option), NaN where the token is not scored or the
    method does without. ``byte_ends`` is -1 for a zero-width token.
    """

    byte_ends: Int32[np.ndarray, "token"]
    logprob: Float32[np.ndarray, "token"]
    border_logprob: Float32[np.ndarray, "token"]


@dataclass(frozen=True)
class HiddenStates(Signal):
    """Final-norm hidden states: with the teacher's head, its exact full distributions.

    ``positions`` are the token positions whose states are kept (those that predict a scored
    token); ``byte_ends`` covers all tokens, so that the student can check that both sides read
    the same tokens.
    """

    byte_ends: Int32[np.ndarray, "token"]
    positions: Int32[np.ndarray, "row"]
    hidden: Shaped[np.ndarray, "row hidden"]


@dataclass(frozen=True)
class IdentifiedStates(HiddenStates):
    """The same with the teacher's token ids: 4 bytes a token more."""

    ids: Int32[np.ndarray, "token"]


@dataclass(frozen=True)
class TopProbabilities(Signal):
    """The largest probabilities of each predicting row: 2k + 12 bytes a token in 16 bits.

    There is one row for each token whose ``logprob`` is not NaN, in the order of the tokens.
    ``logprob`` (nats) is that of the row's realised token; ``others`` are the k largest without
    it, in no order; ``tail`` is the log of all the mass left. Together they make one.
    """

    byte_ends: Int32[np.ndarray, "token"]
    logprob: Float32[np.ndarray, "token"]
    others: Shaped[np.ndarray, "row k"]
    tail: Float32[np.ndarray, "row"]

    @property
    def known(self) -> Bool[np.ndarray, "token"]:
        """True for a token that has a row."""
        known: Bool[np.ndarray, "token"] = ~np.isnan(self.logprob)
        return known

    def row_of(self, positions: Int64[np.ndarray, "chunk"]) -> Int64[np.ndarray, "chunk"]:
        """The rows of the tokens at these positions."""
        rows: Int64[np.ndarray, "chunk"] = (np.cumsum(self.known) - 1)[positions]
        return rows


@dataclass(frozen=True)
class TopTokens(TopProbabilities):
    """The same with token ids: 6k + 16 bytes a token in 16 bits, 400 at k = 64."""

    realised: Int32[np.ndarray, "row"]
    ids: Int32[np.ndarray, "row k"]


@dataclass(frozen=True)
class ByteDistributions(Signal):
    """The next byte's distribution at scored bytes: 518 bytes a byte, about 2,300 a token.

    Row ``r`` is the distribution (nats) of the document's byte ``positions[r]`` given all bytes
    before it: 256 byte values, then the end (of the text, or of the turn: the target where the
    document has ``END_OF_TURN``). Positions rise; a scored byte that the teacher says nothing
    about has no row. Each row sums to one.
    """

    positions: Int32[np.ndarray, "row"]
    logprobs: Float16[np.ndarray, "row 257"]


@dataclass(frozen=True)
class TokenByteDistributions(Signal):
    """The exact chain rule of the teacher's own tokens in bytes: 520 bytes a row.

    Each scored token has a row for each of its bytes and one after the last (``closes``), whose
    target is the symbol 257: the token ends here. Symbol 256 is the end of the text or of the
    turn. Rows are in the order of the text, each sums to one, and the targets' log-probabilities
    (nats) of a token's rows add up to the token's. ``positions`` are bytes of the document; a row
    that closes has that of the byte behind the token. An ``END_OF_TURN`` has one row.
    """

    positions: Int32[np.ndarray, "row"]
    closes: Bool[np.ndarray, "row"]
    logprobs: Float16[np.ndarray, "row 258"]


Kind = TypeVar("Kind", bound=Signal)


def expect(signal: Signal, kind: type[Kind]) -> Kind:
    """The signal, known to be of this kind.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(signal, kind):
        raise ValueError(
            f"the method got a {type(signal).__name__} signal but reads {kind.__name__}; "
            "pass the signal that the same method made"
        )
    return signal


def pack(tensor: Shaped[Tensor, "..."]) -> Shaped[np.ndarray, "..."]:
    """A tensor as numpy on the CPU; bfloat16 as int16 bit patterns."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def unpack(array: Shaped[np.ndarray, "..."]) -> Shaped[Tensor, "..."]:
    """The tensor that ``pack`` was given (copied: received buffers are read-only)."""
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
