"""Tokens that two vocabularies have in common: the same bytes, or the same end by its role."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from losses.alignment.roles import role_partners
from losses.alignment.vocabulary import ENDS, Vocabulary


@dataclass(frozen=True)
class SharedTokens:
    """Pairs of ids with the same bytes, one for each byte string.

    Args:
        students: the student's ids, ascending.
        teachers: the teacher's id of each.
        student_of: the student's id of each of the teacher's, ends included; -1 for none.
    """

    students: Int64[np.ndarray, "shared"]
    teachers: Int64[np.ndarray, "shared"]
    student_of: Int64[np.ndarray, "teacher_token"]


def shared_tokens(student: Vocabulary, teacher: Vocabulary) -> SharedTokens:
    """Find them; of several ids with the same bytes the lowest one stands for all.

    >>> ours = Vocabulary((None, b"a", b"b"), {0: "end"})
    >>> found = shared_tokens(ours, Vocabulary((b"b", None), {1: "end"}))
    >>> found.students.tolist(), found.teachers.tolist(), found.student_of.tolist()
    ([2], [0], [2, 0])
    """
    student_of = np.full(len(teacher), -1, dtype=np.int64)
    for index, content in enumerate(teacher.token_bytes):
        if content and (same := student.ids_of(content)):
            student_of[index] = same[0]
    students, teachers = np.unique(student_of, return_index=True)
    kept = students >= 0
    _pair_ends(student_of, student, teacher)
    return SharedTokens(students[kept], teachers[kept], student_of)


def _pair_ends(
    student_of: Int64[np.ndarray, "teacher_token"], student: Vocabulary, teacher: Vocabulary
) -> None:
    for index, partner in role_partners(teacher, student).items():
        if teacher.roles[index] in ENDS:
            student_of[index] = partner
