"""Exposure bias from errors: the golden Markov pair exactly and sampled, and the curve's rules."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.exposure_bias.curve import accumulated, excess, exposure_bias

GOLDEN = Path(__file__).parents[2] / "golden/sedi/exaccerr.json"
NAN = np.nan


@pytest.fixture(scope="module")
def chain() -> dict[str, Any]:
    found = json.loads(GOLDEN.read_text())
    return {name: np.array(value) for name, value in found.items() if name != "_about"}


def kl_by_state(chain: dict[str, Any]) -> np.ndarray:
    return (chain["p"] * np.log(chain["p"] / chain["q"])).sum(-1)


def every_text(chain: dict[str, Any], model: str) -> tuple[np.ndarray, np.ndarray]:
    """States before each of five symbols in every text, and each text's probability."""
    texts = np.array([(0, *text) for text in product(range(3), repeat=4)])
    steps = chain[model][texts[:, :-1], texts[:, 1:]]
    return texts, steps.prod(-1)


def sampled_texts(chain: dict[str, Any], model: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    states = np.zeros((count, 5), dtype=int)
    for step in range(1, 5):
        above = rng.random(count)[:, None] > chain[model].cumsum(-1)[states[:, step - 1]]
        states[:, step] = np.minimum(above.sum(-1), 2)
    return states


class TestGolden:
    def test_exactly_by_all_texts(self, chain: dict[str, Any]):
        found = {}
        for model in ("p", "q"):
            texts, probabilities = every_text(chain, model)
            [found[model]] = accumulated(kl_by_state(chain)[texts], probabilities[None])
        np.testing.assert_allclose(found["q"], chain["R"], rtol=1e-12)
        np.testing.assert_allclose(found["p"], chain["l_eps"], rtol=1e-12)
        np.testing.assert_allclose(
            excess(found["q"], found["p"]), chain["ex_acc_err"], rtol=1e-9, atol=1e-9
        )

    def test_sampled(self, chain: dict[str, Any]):
        errors = kl_by_state(chain)
        student, teacher = (errors[sampled_texts(chain, model, 4000)] for model in ("q", "p"))
        curve = exposure_bias(student, teacher)
        standard_error = (curve.high - curve.low) / 3.92
        assert curve.percent[0] == 0  # the prompts are the same
        assert (abs(curve.percent - chain["ex_acc_err"]) <= 4 * standard_error).all()
        assert curve.percent[-1] > 3 * standard_error[-1]  # so the test can tell


class TestAccumulated:
    def test_a_text_that_ended_no_longer_counts(self):
        errors = np.array([[1.0, 5.0, 1.0], [3.0, NAN, NAN]])
        assert accumulated(errors, np.ones((1, 2))).tolist() == [[2.0, 7.0, 8.0]]

    def test_weights(self):
        errors = np.array([[1.0, 5.0], [3.0, 1.0]])
        found = accumulated(errors, np.array([[3.0, 1.0], [0.0, 2.0]]))
        assert found.tolist() == [[1.5, 5.5], [3.0, 4.0]]


class TestExposureBias:
    def test_by_hand(self):
        student = np.array([[1.0, 4.0], [1.0, 2.0]])
        teacher = np.array([[1.0, 1.0], [1.0, 1.0]])
        curve = exposure_bias(student, teacher)
        assert curve.student_error.tolist() == [1.0, 4.0]
        assert curve.teacher_error.tolist() == [1.0, 2.0]
        assert curve.percent.tolist() == [0.0, 100.0]
        # two prompts: the first twice (5 - 2) / 2, or the second twice (3 - 2) / 2
        assert (curve.low[1], curve.high[1]) == (50.0, 150.0)

    def test_the_same_texts_have_none(self):
        errors = np.random.default_rng(0).random((6, 9))
        curve = exposure_bias(errors, errors)
        assert not curve.percent.any()
        assert not curve.low.any()
        assert not curve.high.any()

    def test_no_errors_at_all(self):
        curve = exposure_bias(np.zeros((3, 4)), np.zeros((3, 4)))
        assert curve.percent.tolist() == [0.0] * 4

    def test_interval_has_the_size_that_theory_says(self):
        rng = np.random.default_rng(0)
        student, teacher = 2 + rng.normal(size=(400, 1)), np.ones((400, 1))
        curve = exposure_bias(student, teacher, num_resamples=10_000)
        half = 100 * 1.96 * student.std() / 20
        assert curve.high[0] - curve.percent[0] == pytest.approx(half, rel=0.1)
        assert curve.percent[0] - curve.low[0] == pytest.approx(half, rel=0.1)

    def test_seed(self):
        student, teacher = np.random.default_rng(0).random((2, 8, 3))
        first, again = exposure_bias(student, teacher, 1), exposure_bias(student, teacher, 1)
        other = exposure_bias(student, teacher, 2)
        assert first.low.tolist() == again.low.tolist()
        assert first.low.tolist() != other.low.tolist()
        assert first.percent.tolist() == other.percent.tolist()

    def test_ends_where_hardly_a_text_goes_on(self):
        student = np.ones((30, 4))
        student[3:, 1] = NAN  # three of 30 go on: a tenth
        student[2:, 2] = NAN
        student[1:, 3] = NAN
        curve = exposure_bias(student, np.ones((30, 4)))
        assert len(curve) == 2
        assert curve.student_texts.tolist() == [30, 3]
        assert curve.teacher_texts.tolist() == [30, 30]

    def test_too_few_texts(self):
        with pytest.raises(ValueError, match="1 of 3 texts have a first byte"):
            exposure_bias(np.array([[1.0], [NAN], [NAN]]), np.ones((3, 1)))
