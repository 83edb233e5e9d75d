"""Errors at the bytes of a text, from two models' next-byte distributions."""

import math

import numpy as np
import pytest

from losses.signals import ByteDistributions
from orchestrator.exposure_bias.errors import next_byte_errors


def signal(positions: list[int], firsts: list[float]) -> ByteDistributions:
    """Distributions with this probability of byte 0 and the rest on byte 1."""
    rows = np.full((len(positions), 257), -60000.0, dtype=np.float16)
    rows[:, 0], rows[:, 1] = np.log(firsts), np.log1p(-np.array(firsts))
    return ByteDistributions(np.array(positions, dtype=np.int32), rows)


def test_by_hand():
    teacher, student = (
        signal([2, 3, 4], [0.5, 0.9, 0.5]),
        signal([1, 2, 3, 4], [0.5, 0.25, 0.9, 0.5]),
    )
    found = next_byte_errors(teacher, student, first=2, length=4)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found[0] == pytest.approx(expected, rel=1e-3)  # half precision on its way
    assert found[1:3].tolist() == [0.0, 0.0]
    assert math.isnan(found[3])  # the text ends


def test_what_one_model_does_not_predict_is_unknown():
    found = next_byte_errors(signal([0, 2], [0.5, 0.5]), signal([0, 1, 2], [0.5] * 3), 0, 3)
    assert np.isnan(found).tolist() == [False, True, False]
    cut = next_byte_errors(signal([0, 1], [0.5, 0.5]), signal([0, 1], [0.5, 0.9]), 1, 1)
    assert len(cut) == 1
    assert cut[0] > 0.4


def test_rounding_makes_no_error_negative():
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(257, 0.05), 50) + 1e-9
    near = rows * (1 + 1e-4 * rng.normal(size=rows.shape))
    teacher, student = (
        ByteDistributions(np.arange(50, dtype=np.int32), np.log(table).astype(np.float16))
        for table in (rows, near)
    )
    assert (next_byte_errors(teacher, student, 0, 50) >= -1e-15).all()


def test_an_impossible_byte_is_refused():
    student = signal([0], [0.5])
    student.logprobs[0, 1] = -np.inf
    with pytest.raises(ValueError, match="error at byte 0 is inf"):
        next_byte_errors(signal([0], [0.5]), student, 0, 1)
