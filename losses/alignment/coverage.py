"""What the audit of W counts: which kinds of tokens the teacher's vocabulary knows whole.

A loss on the common part of two vocabularies (GOLD, H-KL) sees a token exactly only if it has an
exact twin; all other mass is compared by rank, which says nothing about which token it is. Where
numerals or punctuation have no twins, such a loss trains them away; a projected one does not.

Source: the coverage audit of X-Token, arXiv:2605.21699; the classes' rules are ours.
"""

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int64

from losses.alignment.projection import Projection
from losses.alignment.roles import role_partners
from losses.alignment.vocabulary import Vocabulary

CODE_MARKS = frozenset("()[]{}<>=_;/\\#$&|@*+^~`%")
"""Two characters or more with one of these count as code."""
SUFFICIENT = 0.95
"""Share of exact tokens from which a class counts as covered."""


class TokenClass(StrEnum):
    """Kinds of tokens, each with every token in exactly one of them."""

    ROLE = "roles"
    PARTIAL = "parts of characters"
    WHITESPACE = "whitespace runs"
    ONE_DIGIT = "numerals of 1 digit"
    TWO_DIGITS = "numerals of 2 digits"
    THREE_DIGITS = "numerals of 3 digits"
    LONG_NUMERAL = "longer numerals"
    PUNCTUATION = "punctuation marks"
    SYMBOLS = "symbols and runs of marks"
    CODE = "code"
    OTHER_SCRIPT = "non-Latin scripts"
    LATIN = "Latin and mixed text"


CRITICAL = (
    TokenClass.ONE_DIGIT,
    TokenClass.TWO_DIGITS,
    TokenClass.THREE_DIGITS,
    TokenClass.PUNCTUATION,
)
"""Classes whose loss is known to cost accuracy."""
_NUMERALS = (TokenClass.ONE_DIGIT, TokenClass.TWO_DIGITS, TokenClass.THREE_DIGITS)


@dataclass(frozen=True)
class ClassCoverage:
    """One class: the student's tokens by their rows, the teacher's by whether one reaches them.

    Args:
        exact: student tokens with one exact twin.
        split: student tokens spread over pieces.
        empty: student tokens with an empty row.
        teacher_exact: teacher tokens with the bytes or the role of some student token.
        teacher_other: the teacher's other tokens.
        seen: occurrences in a text of the student's tokens of this class.
        seen_exact: those of exact tokens.
        teacher_seen: occurrences in the same text of the teacher's tokens.
        teacher_seen_exact: those of tokens that the student has too.
    """

    exact: int
    split: int
    empty: int
    teacher_exact: int
    teacher_other: int
    seen: int = 0
    seen_exact: int = 0
    teacher_seen: int = 0
    teacher_seen_exact: int = 0

    @property
    def student(self) -> int:
        """Number of the student's tokens."""
        return self.exact + self.split + self.empty

    @property
    def teacher(self) -> int:
        """Number of the teacher's tokens."""
        return self.teacher_exact + self.teacher_other


@dataclass(frozen=True)
class Coverage:
    """Every class that either vocabulary has tokens of."""

    classes: dict[TokenClass, ClassCoverage]

    @property
    def total(self) -> ClassCoverage:
        """All classes together."""
        fields = ClassCoverage.__dataclass_fields__
        return ClassCoverage(
            **{name: sum(getattr(c, name) for c in self.classes.values()) for name in fields}
        )

    @property
    def uncovered(self) -> list[TokenClass]:
        """Critical classes with too few exact tokens on the student's or the teacher's side."""
        return [name for name in CRITICAL if name in self.classes and _lacks(self.classes[name])]

    @property
    def advice(self) -> str:
        """Which loss to take for this pair, and why."""
        if self.uncovered:
            reasons = ", ".join(_reason(name, self.classes[name]) for name in self.uncovered)
            return f"p_kl: without an exact twin a partition loss drops {reasons}"
        total = self.total
        return (
            f"h_kl or gold: numerals and punctuation have exact twins, and so have "
            f"{_percent(total.exact, total.student)} of the student's tokens"
        )


@dataclass(frozen=True)
class Occurrences:
    """How often each token stands in a text that both tokenizers read."""

    student: Int64[np.ndarray, "student"]
    teacher: Int64[np.ndarray, "teacher"]

    @classmethod
    def none(cls, num_student: int, num_teacher: int) -> "Occurrences":
        """No text."""
        return cls(np.zeros(num_student, dtype=np.int64), np.zeros(num_teacher, dtype=np.int64))


def measure_coverage(
    student: Vocabulary,
    teacher: Vocabulary,
    projection: Projection,
    occurrences: Occurrences | None = None,
) -> Coverage:
    """Count rows by class.

    Args:
        student: the vocabulary of W's rows.
        teacher: the vocabulary of W's columns.
        projection: W.
        occurrences: how often the tokens come in a text.
    """
    seen = occurrences or Occurrences.none(len(student), len(teacher))
    entries = np.diff(projection.offsets)
    twins = _twins(teacher, student)
    classes_s, classes_t = classes_of(student), classes_of(teacher)
    found = {}
    for place, name in enumerate(TokenClass):
        of_student, of_teacher = classes_s == place, classes_t == place
        if not (of_student.any() or of_teacher.any()):
            continue
        exact = of_student & projection.exact
        found[name] = ClassCoverage(
            exact=int(exact.sum()),
            split=int((of_student & ~projection.exact & (entries > 0)).sum()),
            empty=int((of_student & (entries == 0)).sum()),
            teacher_exact=int((of_teacher & twins).sum()),
            teacher_other=int((of_teacher & ~twins).sum()),
            seen=int(seen.student[of_student].sum()),
            seen_exact=int(seen.student[exact].sum()),
            teacher_seen=int(seen.teacher[of_teacher].sum()),
            teacher_seen_exact=int(seen.teacher[of_teacher & twins].sum()),
        )
    return Coverage(found)


def _twins(teacher: Vocabulary, student: Vocabulary) -> Bool[np.ndarray, "teacher"]:
    """Which teacher tokens the student has too; of ids with the same bytes all are."""
    by_role = role_partners(teacher, student)
    found = (
        index in by_role if content is None else bool(student.ids_of(content))
        for index, content in enumerate(teacher.token_bytes)
    )
    return np.fromiter(found, dtype=bool, count=len(teacher))


def classes_of(vocabulary: Vocabulary) -> Int64[np.ndarray, "id"]:
    """Each id's place in ``TokenClass``; ids that are no tokens have -1."""
    places = {name: place for place, name in enumerate(TokenClass)}
    found = [
        (places[TokenClass.ROLE] if index in vocabulary.roles else -1)
        if content is None
        else places[class_of(content)]
        if content
        else -1
        for index, content in enumerate(vocabulary.token_bytes)
    ]
    return np.array(found, dtype=np.int64)


def class_of(content: bytes) -> TokenClass:
    r"""The class of a regular token; one space in front does not count.

    >>> [class_of(b).value for b in (b" 12", b"\n\n", b" {", b"_id", b"\xe4\xb8")]
    ['numerals of 2 digits', 'whitespace runs', 'punctuation marks', 'code',
    'parts of characters']
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return TokenClass.PARTIAL
    if not text.strip():
        return TokenClass.WHITESPACE
    text = text.removeprefix(" ")
    if text.isascii() and text.isdigit():
        return _NUMERALS[len(text) - 1] if len(text) <= len(_NUMERALS) else TokenClass.LONG_NUMERAL
    return _class_of_words(text)


def _class_of_words(text: str) -> TokenClass:
    kinds = {_kind(character) for character in text}
    if len(text) > 1 and not CODE_MARKS.isdisjoint(text):
        return TokenClass.CODE
    if "other script" in kinds:
        return TokenClass.OTHER_SCRIPT
    if kinds <= {"mark", "space"}:
        single = len(text) == 1 and text.isascii()
        return TokenClass.PUNCTUATION if single else TokenClass.SYMBOLS
    return TokenClass.LATIN


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """``mark`` (punctuation, symbols), ``space``, ``other script`` or ``plain``."""
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category[0] in "PS":
        return "mark"
    foreign = category[0] in "LM" and not unicodedata.name(character, "").startswith("LATIN")
    return "other script" if foreign else "plain"


def _lacks(found: ClassCoverage) -> bool:
    return (
        found.exact < SUFFICIENT * found.student or found.teacher_exact < SUFFICIENT * found.teacher
    )


def _reason(name: TokenClass, found: ClassCoverage) -> str:
    sides = [
        (found.student - found.exact, found.student, "student's"),
        (found.teacher_other, found.teacher, "teacher's"),
    ]
    lost, total, side = max(sides, key=lambda entry: entry[0] / max(entry[1], 1))
    return f"{lost} of the {side} {total} {name.value}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"
