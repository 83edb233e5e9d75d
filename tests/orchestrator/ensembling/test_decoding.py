"""The loop that mixes, draws and stops, on readers with fixed rows."""

import math

import numpy as np
import pytest
import torch

from orchestrator.ensembling.decoding import Decoding, drawn, mixed_row, write

ONE = torch.ones(1, dtype=torch.float64)
BOTH = torch.tensor([3.0, 1.0], dtype=torch.float64)


class Fixed:
    """Says the same rows again and again; symbols are a, b and the end."""

    def __init__(self, *rows: list[float] | None, room: int | None = None) -> None:
        self.rows = rows
        self.symbols: list[int] = []
        self.left = room

    def logprobs(self) -> torch.Tensor | None:
        row = self.rows[len(self.symbols) % len(self.rows)]
        return None if row is None else torch.tensor(row, dtype=torch.float64).log()

    def content(self, symbol: int) -> bytes:
        return b"ab"[symbol : symbol + 1]

    def read(self, symbol: int) -> None:
        self.symbols.append(symbol)

    @property
    def room(self) -> int | None:
        return None if self.left is None else self.left - len(self.symbols)


GREEDY = Decoding(max_new_bytes=9, temperature=0.0)


def test_any_members_end_stops_the_text():
    """The second alone expects an end after one byte; its weight is enough."""
    first = Fixed([0.9, 0.05, 0.05], [0.4, 0.35, 0.25])
    second = Fixed([0.9, 0.05, 0.05], [0.0, 0.0, 1.0])
    found = write([first, second], BOTH, "arithmetic", GREEDY)
    assert (found.content, found.stopped, found.num_drawn) == (b"a", "end", 2)
    assert found.nats == pytest.approx(-math.log(0.9) - math.log(0.75 * 0.25 + 0.25))
    assert first.symbols == second.symbols == [0]
    alone = write([Fixed([0.9, 0.05, 0.05], [0.4, 0.35, 0.25])], ONE, "arithmetic", GREEDY)
    assert (alone.content, alone.stopped) == (b"aaaaaaaaa", "length")


def test_limits():
    tokens = Decoding(max_new_tokens=3, temperature=0.0)
    assert write([Fixed([0.9, 0.05, 0.05])], ONE, "arithmetic", tokens).content == b"aaa"
    full = write([Fixed([0.9, 0.05, 0.05], room=2)], ONE, "arithmetic", GREEDY)
    assert (full.content, full.stopped) == (b"aa", "context")
    assert Decoding().limits == (math.inf, 256)
    assert Decoding(max_new_tokens=5).limits == (5, math.inf)


def test_a_silent_member_leaves_its_weight():
    row = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64).log()
    torch.testing.assert_close(mixed_row([row, None], BOTH, "arithmetic"), row)
    with pytest.raises(ValueError, match="no member can read the text"):
        mixed_row([None, None], BOTH, "arithmetic")


def test_draws_follow_the_mean():
    row = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64).log()
    draws = np.random.default_rng(0)
    counts = np.bincount([drawn(row, 1.0, draws) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(counts, [0.25, 0, 0.75], atol=0.03)
    cold = np.bincount([drawn(row, 0.5, draws) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(cold, [0.1, 0, 0.9], atol=0.03)
    assert drawn(row, 0.0, draws) == 2


def test_a_cut_character_is_shown_as_such():
    found = write([Fixed([0.9, 0.05, 0.05])], ONE, "arithmetic", Decoding(max_new_bytes=1))
    assert found.text == found.content.decode()
    assert type(found)("é".encode()[:1], 0.0, 1, "length").text == "\ufffd"
