"""Terms that fall silent hand their weights on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.mixture import handed_on

WEIGHTS = st.lists(st.floats(0.1, 10.0), min_size=3, max_size=6).map(tuple)


def test_by_hand():
    assert handed_on((0.5, 1.0, 5.0), {2}) == (0.5, 6.0, 0.0)
    assert handed_on((0.5, 1.0, 5.0), set()) == (0.5, 1.0, 5.0)
    assert handed_on((0.5, 1.0, 5.0), {1, 2}) == (0.5, 0.0, 0.0)
    assert handed_on((0.5, 0.0, 5.0), {2}) == (0.5, 0.0, 0.0)  # a weight of 0 takes nothing over


@given(WEIGHTS, st.data())
def test_the_total_and_the_proportions_stay(written, data):
    places = range(1, len(written))
    silent = data.draw(st.sets(st.sampled_from(places), max_size=len(written) - 2))
    now = handed_on(written, silent)
    assert now[0] == written[0]
    assert sum(now[1:]) == pytest.approx(sum(written[1:]))
    assert all(now[place] == 0 for place in silent)
    left = [place for place in places if place not in silent]
    assert [now[i] / now[left[0]] for i in left] == pytest.approx(
        [written[i] / written[left[0]] for i in left]
    )
