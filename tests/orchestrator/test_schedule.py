"""The learning rate's course."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.student.schedule import lr_factor

KINDS = ("constant", "linear", "cosine")


def test_by_hand():
    def course(kind: str) -> list[float]:
        return [lr_factor(kind, 2, 6)(step) for step in range(6)]

    cosine = [0.5 * (1 + math.cos(math.pi * part)) for part in (0, 0.25, 0.5, 0.75)]
    assert course("constant") == [0.5, 1, 1, 1, 1, 1]
    assert course("linear") == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert course("cosine") == pytest.approx([0.5, 1, *cosine])


@given(st.sampled_from(KINDS), st.integers(0, 10), st.integers(1, 30))
def test_rises_to_the_peak_then_never_rises(kind, warmup, steps):
    course = [lr_factor(kind, warmup, steps)(step) for step in range(steps)]
    assert all(0 < value <= 1 for value in course)  # no step stands still
    assert all(a < b for a, b in pairwise(course[:warmup]))
    assert all(a >= b for a, b in pairwise(course[warmup:]))
    if 0 < warmup <= steps:
        assert course[warmup - 1] == 1


@pytest.mark.parametrize(("kind", "end"), [("constant", 1), ("linear", 0), ("cosine", 0)])
def test_beyond_the_end(kind, end):
    """Schedulers ask for the step after the last one as well."""
    factor = lr_factor(kind, 0, 5)
    assert factor(5) == pytest.approx(end)
    assert factor(50) == pytest.approx(end)


def test_warmup_longer_than_the_run():
    assert [lr_factor("cosine", 8, 4)(step) for step in range(4)] == [1 / 8, 2 / 8, 3 / 8, 4 / 8]


def test_unknown_schedule_is_refused():
    with pytest.raises(KeyError):
        lr_factor("exponential", 0, 5)
