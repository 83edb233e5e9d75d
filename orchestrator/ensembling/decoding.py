"""Writing: members say what comes next, their mean is drawn from, and all of them read it.

The mixed distribution is drawn from, not the members': at temperature 0 its likeliest outcome is
taken. The end is an outcome like any other, and ends the text when it is drawn, whichever member's
tokens stand behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from losses.mixture.targets import Mean, combine_logprobs

DEFAULT_BYTES = 256
"""Length of a text if no limit is given."""


@runtime_checkable
class Reader(Protocol):
    """One member beside a text that grows; the last outcome is the end."""

    def logprobs(self) -> Float64[Tensor, "outcome"] | None:
        """Of the next outcome (nats); None from a member that can say nothing more."""

    def content(self, symbol: int) -> bytes:
        """The bytes of an outcome."""

    def read(self, symbol: int) -> None:
        """Go on with an outcome."""

    @property
    def room(self) -> int | None:
        """How much more the member can read; None: no limit is known."""


@dataclass(frozen=True)
class Decoding:
    """How long texts become and how they are drawn.

    Args:
        max_new_tokens: at most; only where tokens are mixed.
        max_new_bytes: a text of this length or more is done; 256 if neither is given.
        temperature: divides the log-probabilities of the mean; 0 takes the likeliest outcome. In
            bytes it flattens each byte's choice, which is not what it does to tokens.
        seed: of all prompts; each has draws of its own.
    """

    max_new_tokens: int | None = None
    max_new_bytes: int | None = None
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"max_new_tokens": self.max_new_tokens, "max_new_bytes": self.max_new_bytes}
        for name, value in limits.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if not 0 <= self.temperature < np.inf:
            raise ValueError(f"temperature is {self.temperature}; expected 0 or more")

    @property
    def limits(self) -> tuple[float, float]:
        """Tokens and bytes at most."""
        if self.max_new_tokens is None and self.max_new_bytes is None:
            return np.inf, float(DEFAULT_BYTES)
        return float(self.max_new_tokens or np.inf), float(self.max_new_bytes or np.inf)


@dataclass(frozen=True)
class Written:
    """A text that an ensemble wrote.

    Args:
        content: its bytes, without the prompt.
        nats: negative log-probability of what was drawn, the end included, under the mean at
            temperature 1.
        num_drawn: outcomes drawn: tokens or bytes, and the end.
        stopped: ``end`` was drawn, the ``length`` was reached, or a member's ``context`` is full.
    """

    content: bytes
    nats: float
    num_drawn: int
    stopped: Literal["end", "length", "context"]

    @property
    def text(self) -> str:
        """The bytes as text; U+FFFD for what is not UTF-8, such as a character cut off."""
        return self.content.decode(errors="replace")


def write(
    readers: Sequence[Reader],
    weights: Float64[Tensor, "member"],
    mean: Mean,
    decoding: Decoding,
    index: int = 0,
) -> Written:
    """Let the members write one text.

    Args:
        readers: after the prompt, one a member.
        weights: of the members; a silent one leaves its weight to the others.
        mean: arithmetic or geometric.
        decoding: limits and draws.
        index: of the prompt, which has draws of its own.

    Raises:
        ValueError: no member can say anything more.
    """
    draws = np.random.default_rng([decoding.seed, index])
    max_drawn, max_bytes = decoding.limits
    content, nats, count = b"", 0.0, 0
    while count < max_drawn and len(content) < max_bytes:
        if any(reader.room is not None and reader.room < 1 for reader in readers):
            return Written(content, nats, count, "context")
        row = mixed_row([reader.logprobs() for reader in readers], weights, mean)
        symbol = drawn(row, decoding.temperature, draws)
        nats, count = nats - float(row[symbol]), count + 1
        if symbol == len(row) - 1:
            return Written(content, nats, count, "end")
        content += readers[0].content(symbol)
        for reader in readers:
            reader.read(symbol)
    return Written(content, nats, count, "length")


def mixed_row(
    rows: Sequence[Float64[Tensor, "outcome"] | None],
    weights: Float64[Tensor, "member"],
    mean: Mean,
) -> Float64[Tensor, "outcome"]:
    """The members' mean of one row, in nats.

    Raises:
        ValueError: every member is silent.
    """
    known = [row.cpu() for row in rows if row is not None]
    if not known:
        raise ValueError(
            "no member can read the text that was written so far; raise the search's width or "
            "lower its epsilon"
        )
    present = torch.tensor([row is not None for row in rows])
    stack = torch.stack([known[0] if row is None else row.cpu() for row in rows])
    return combine_logprobs(stack[:, None], weights, present[:, None], mean)[0]


def drawn(row: Float64[Tensor, "outcome"], temperature: float, draws: np.random.Generator) -> int:
    """One outcome of a row of log-probabilities.

    >>> row = torch.tensor([0.2, 0.7, 0.1]).double().log()
    >>> drawn(row, 0.0, np.random.default_rng(0))
    1
    """
    if temperature == 0:
        return int(row.argmax())
    mass = torch.softmax(row / temperature, -1).numpy().cumsum()
    place = int(np.searchsorted(mass, draws.random() * mass[-1], side="right"))
    return min(place, int(np.searchsorted(mass, mass[-1])))
