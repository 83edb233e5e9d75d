"""Byte starts and which tokens count."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.tokens import Tokens, byte_starts, scored_tokens


def test_starts_of_a_chat():
    # <start> "ab" <end of turn> <header> "cde" "f"
    ends = np.array([-1, 2, -1, -1, 5, 6])
    assert byte_starts(ends).tolist() == [0, 0, 2, 2, 2, 5]
    assert byte_starts(np.zeros(0, dtype=np.int64)).tolist() == []
    assert len(Tokens(np.arange(6), ends)) == 6


def test_straddling_tokens_of_a_chat():
    # <start> "ab" ".+newline" <end of turn> "c" and an end of turn that no token has
    tokens = Tokens(np.arange(6), np.array([-1, 2, 3, 4, 5, 6]), np.array([2, 5]))
    scored = np.array([True, True, True, True, False, True])
    assert tokens.scored(scored).tolist() == [False, True, False, True, False, False]
    assert scored_tokens(tokens.byte_ends, scored).tolist()[2]  # by its bytes alone it would be
    assert tokens.num_straddling(scored) == 2
    assert Tokens(tokens.ids, tokens.byte_ends).num_straddling(scored) == 0


def test_the_first_token_does_not_count_as_straddling():
    scored = np.array([False, True, True])
    assert Tokens(np.arange(2), np.array([2, 3])).num_straddling(scored) == 0
    assert Tokens(np.arange(3), np.array([-1, 2, 3])).num_straddling(scored) == 1


def test_straddling_token_is_not_scored():
    # Bytes 0-3 prompt, 4-5 answer; tokens "abc", "de" (straddles), "f", then an empty one
    scored = np.array([False] * 4 + [True] * 2)
    ends = np.array([-1, 3, 5, 6, 6])
    assert scored_tokens(ends, scored).tolist() == [False, False, False, True, False]


def test_the_first_token_is_never_scored():
    everything = np.ones(4, dtype=bool)
    assert scored_tokens(np.array([2, 4]), everything).tolist() == [False, True]
    assert scored_tokens(np.array([-1, 2, 4]), everything).tolist() == [False, True, True]
    assert scored_tokens(np.zeros(0, dtype=np.int64), everything).tolist() == []


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.data())
def test_equals_a_loop(widths, data):
    ends = np.cumsum(widths)
    scored = np.array(
        data.draw(st.lists(st.booleans(), min_size=sum(widths), max_size=sum(widths)))
    )
    starts = ends - np.array(widths)
    expected = [bool(scored[a:b].all()) for a, b in zip(starts, ends, strict=True)]
    expected[0] = False
    assert byte_starts(ends).tolist() == starts.tolist()
    assert scored_tokens(ends, scored).tolist() == expected
