"""What the audit counts, on vocabularies small enough to count by hand."""

import numpy as np
import pytest

from losses.alignment.coverage import (
    ClassCoverage,
    Occurrences,
    TokenClass,
    class_of,
    classes_of,
    measure_coverage,
)
from losses.alignment.projection import ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.alignment.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", TokenClass.ONE_DIGIT),
        (" 7", TokenClass.ONE_DIGIT),
        ("42", TokenClass.TWO_DIGITS),
        (" 201", TokenClass.THREE_DIGITS),
        ("2024", TokenClass.LONG_NUMERAL),
        ("٣", TokenClass.LATIN),  # a digit, but none of the ten
        (" ", TokenClass.WHITESPACE),
        ("\n\t ", TokenClass.WHITESPACE),
        (",", TokenClass.PUNCTUATION),
        (" (", TokenClass.PUNCTUATION),
        ("...", TokenClass.SYMBOLS),
        ("。", TokenClass.SYMBOLS),
        ("🙂", TokenClass.SYMBOLS),
        ("()", TokenClass.CODE),
        (" _name", TokenClass.CODE),
        (" +=", TokenClass.CODE),
        ("東京", TokenClass.OTHER_SCRIPT),
        (" Привет", TokenClass.OTHER_SCRIPT),
        ("नि", TokenClass.OTHER_SCRIPT),
        (" café", TokenClass.LATIN),
        ("don't", TokenClass.LATIN),
        ("e.g", TokenClass.LATIN),
        ("x2", TokenClass.LATIN),
    ],
)
def test_class_of_text(text, expected):
    assert class_of(text.encode()) is expected


def test_class_of_what_is_no_text():
    assert class_of(b"\xe6\x9d") is TokenClass.PARTIAL
    places = classes_of(Vocabulary((None, None, b"", b"1"), {0: "end"}))
    names = list(TokenClass)
    assert names[places[0]] is TokenClass.ROLE
    assert places[1:3].tolist() == [-1, -1]  # an unused id and an empty one are no tokens
    assert names[places[3]] is TokenClass.ONE_DIGIT


def measure(student, teacher, occurrences=None):
    def encode(texts):
        rows = [[teacher.ids_of(c.encode())[:1] for c in text] for text in texts]
        return [[i for (i,) in row] if all(row) else [] for row in rows]

    w = build_projection(student, teacher, encode, ProjectionOptions())
    return measure_coverage(student, teacher, w, occurrences)


STUDENT = Vocabulary((None, b"1", b"2", b"12", b"21", b",", b"?", b"ab"), {0: "end"})
TEACHER = Vocabulary((b"2", b"1", b"1", b",", b"a", b"b", b"cd", None), {7: "end"})


def test_counts_by_hand():
    seen = Occurrences(np.arange(8), np.array([5, 1, 0, 0, 0, 0, 3, 0]))
    found = measure(STUDENT, TEACHER, seen)
    assert found.classes == {
        TokenClass.ROLE: ClassCoverage(1, 0, 0, 1, 0),
        # both of the teacher's "1" count as known, though W leads to one of them
        TokenClass.ONE_DIGIT: ClassCoverage(2, 0, 0, 3, 0, 1 + 2, 1 + 2, 6, 6),
        TokenClass.TWO_DIGITS: ClassCoverage(0, 2, 0, 0, 0, 3 + 4, 0),
        TokenClass.PUNCTUATION: ClassCoverage(1, 0, 1, 1, 0, 5 + 6, 5),
        TokenClass.LATIN: ClassCoverage(0, 1, 0, 0, 3, 7, 0, 3, 0),
    }
    assert found.total == ClassCoverage(4, 3, 1, 5, 3, 28, 8, 9, 6)
    assert (found.total.student, found.total.teacher) == (8, 8)


def test_advice_names_what_a_partition_would_drop():
    found = measure(STUDENT, TEACHER)
    assert found.uncovered == [TokenClass.TWO_DIGITS, TokenClass.PUNCTUATION]
    assert found.advice == (
        "p_kl: without an exact twin a partition loss drops 2 of the student's 2 numerals of 2 "
        "digits, 1 of the student's 2 punctuation marks"
    )


def test_advice_looks_at_the_teachers_side_too():
    # the student splits digits, the teacher does not
    found = measure(Vocabulary((b"1", b"2")), Vocabulary((b"1", b"2", b"12")))
    assert "1 of the teacher's 1 numerals of 2 digits" in found.advice


def test_advice_where_nothing_critical_is_lost():
    found = measure(Vocabulary((b"1", b",", b"ab")), Vocabulary((b"1", b",", b"a", b"b")))
    assert found.uncovered == []
    assert found.advice.startswith("h_kl or gold: numerals and punctuation have exact twins")
    assert "66.7 % of the student's tokens" in found.advice
