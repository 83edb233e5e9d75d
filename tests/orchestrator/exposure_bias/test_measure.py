"""Exposure bias measured on models: the golden Markov pair, and two tokenizers by hand."""

import json
import math
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from losses.byte_distributions import Converter
from losses.document import text_document
from orchestrator.exposure_bias.measure import Models, measure
from teachers.sampling import Sampling

GOLDEN = Path(__file__).parents[2] / "golden/sedi/exaccerr.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


def as_chain(table: list[list[float]]) -> dict[str, dict[str, float]]:
    return {
        state: dict(zip("abc", row, strict=True)) for state, row in zip("abc", table, strict=True)
    }


@pytest.fixture(scope="module")
def pair(markov, golden) -> Models:
    student, teacher = markov(as_chain(golden["q"])), markov(as_chain(golden["p"]))
    return Models(student, teacher, Converter(name="one_path"))


class TestGolden:
    def test_curve(self, pair: Models, golden: dict[str, Any]):
        """From sampling to the curve; its exact values lie within what sampling leaves open."""
        prompts = ["a"] * 80
        curve = measure(pair, prompts, Sampling(5, batch_size=40))
        standard_error = (curve.high - curve.low) / 3.92
        assert abs(curve.percent[0]) < 1e-6
        assert (abs(curve.percent - golden["ex_acc_err"]) < 4 * standard_error + 0.05).all()
        np.testing.assert_allclose(curve.student_error, golden["R"], rtol=0.1)
        np.testing.assert_allclose(curve.teacher_error, golden["l_eps"], rtol=0.1)
        assert curve.student_texts.tolist() == [80] * 5

    def test_the_other_way_round_is_another_curve(self, pair: Models, golden: dict[str, Any]):
        turned = Models(pair.teacher, pair.student, pair.converter)
        curve = measure(turned, ["a"] * 2, Sampling(5))
        assert abs(curve.student_error[0] - golden["R"][0]) > 0.05

    def test_seed_and_temperature(self, pair: Models):
        prompts = ["a"] * 4
        first = measure(pair, prompts, Sampling(5, seed=3))
        again = measure(pair, prompts, Sampling(5, seed=3))
        other = measure(pair, prompts, Sampling(5, seed=4))
        colder = measure(pair, prompts, Sampling(5, seed=3, temperature=0.5))
        assert first.percent.tolist() == again.percent.tolist()
        assert first.percent.tolist() != other.percent.tolist()
        assert first.percent.tolist() != colder.percent.tolist()


TEACHER = {
    "a": {"a": 0.3, "b": 0.2, "c": 0.1, "bc": 0.4},
    "b": {"a": 0.5, "b": 0.2, "bc": 0.3},  # b, c would be bc
    "c": {"a": 0.6, "b": 0.1, "c": 0.2, "bc": 0.1},
    "bc": {"a": 0.1, "b": 0.5, "c": 0.3, "bc": 0.1},
}
STUDENT = {
    "a": {"a": 0.5, "b": 0.25, "c": 0.25},
    "b": {"a": 0.4, "b": 0.3, "c": 0.3},
    "c": {"a": 0.2, "b": 0.2, "c": 0.6},
}


def probability(text: str) -> float:
    """That the teacher's text after ``a`` begins so, over every token that may end it."""
    ids, rest = ["a"], text
    total = 1.0
    while rest:
        row = TEACHER[ids[-1]]
        if rest == "b":
            return total * (row["b"] + row["bc"])
        piece = "bc" if rest.startswith("bc") else rest[0]
        total *= row.get(piece, 0.0)
        ids.append(piece)
        rest = rest[len(piece) :]
    return total


def error(prefix: str) -> float:
    """KL of the byte after ``a`` and the prefix."""
    student = STUDENT[prefix[-1] if prefix else "a"]
    whole = probability(prefix)
    chances = {byte: probability(prefix + byte) / whole for byte in "abc"}
    assert sum(chances.values()) == pytest.approx(1)
    return sum(p * math.log(p / student[byte]) for byte, p in chances.items() if p)


@pytest.mark.parametrize("converter", ["branches", "beam"])
def test_two_tokenizers_by_hand(markov, converter: str):
    """A teacher with a token of two bytes against a student that has only bytes."""
    models = Models(markov(STUDENT, "s"), markov(TEACHER, "t"), Converter(converter, 0.001))
    texts = ["abcbaabcc", "abbcbcabb", "acbcbbcba"]
    documents = [text_document(str(index), text) for index, text in enumerate(texts)]
    found = models.errors([*documents, None], [1, 1, 2, 1], 8)
    for row, (text, start) in enumerate(zip(texts, [1, 1, 2], strict=True)):
        expected = [error(text[1:end]) for end in range(start, len(text))]
        np.testing.assert_allclose(found[row, : len(expected)], expected, atol=4e-3)
    assert np.isnan(found[2, 7:]).all()
    assert np.isnan(found[3]).all()


def test_a_student_that_is_the_teacher_has_none(language_model):
    """The same texts and rows: exactly zero, whatever the converter leaves out."""
    model = language_model(initializer_range=0.2)
    models = Models(model, model, Converter(name="one_path"))
    curve = measure(models, ["The quick", "A text", "def f", "Hello there"], Sampling(12))
    assert len(curve) >= 3
    assert not curve.student_error.any()
    assert not curve.percent.any()


def test_a_text_too_long_for_a_model_is_not_read(pair: Models):
    """It would read on beyond its positions and say something wrong."""
    short = copy(pair.teacher.tokenizer)
    short.max_tokens = 5  # with the start token
    models = replace(pair, teacher=replace(pair.teacher, tokenizer=short))
    texts = [text_document("d", text) for text in ("abca", "abcab")]
    assert [models.can_read(text) for text in texts] == [True, False]
    assert all(pair.can_read(text) for text in texts)


def test_unlike_tokenizers(language_model, caplog):
    """Random models: the errors are far from zero and finite."""
    models = Models(
        language_model(tokenizer="sentencepiece", initializer_range=0.2),
        language_model(initializer_range=0.2),
        Converter(name="branches", epsilon=0.1),
    )
    curve = measure(models, ["The quick", "A text", "def f", "Hello there"] * 2, Sampling(8))
    assert np.isfinite(curve.percent).all()
    assert curve.teacher_error[0] > 0.1
