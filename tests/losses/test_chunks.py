"""The finest common chunking against tokenkit, a brute force and its own laws."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.chunks import align, group_chunks, live_chunks, merge_chunks

GOLDEN = Path(__file__).parents[1] / "golden"
REAL = json.loads((GOLDEN / "align_real_tokenizers.json").read_text())["cases"]
SYNTHETIC = json.loads((GOLDEN / "align_synthetic.json").read_text())["cases"]

NOT_COMPARED = {
    "leading_space_teacher_two": "a text with and without leading spaces: not the same bytes",
    "mismatching_text_length": "the two sides hold other bytes: refused by the encoder, not here",
    "mismatching_text_unchecked": "the same",
    "empty_student_space": "tokenkit raises IndexError; see test_empty_sides",
}
"""Synthetic cases that are not one document under two tokenizers."""


def ends_of(pieces, drop=0):
    """Byte ends of hexadecimal pieces without the first ``drop`` bytes."""
    return np.maximum(np.cumsum([len(bytes.fromhex(piece)) for piece in pieces]) - drop, 0).astype(
        np.int64
    )


def spans(found):
    """Chunks as tokenkit writes them: teacher start, teacher end, student start, student end."""
    return [
        [
            np.flatnonzero(found.teacher_chunk == chunk)[0],
            found.teacher_last[chunk] + 1,
            np.flatnonzero(found.student_chunk == chunk)[0],
            found.student_last[chunk] + 1,
        ]
        for chunk in range(found.num_chunks)
    ]


@pytest.mark.parametrize("case", REAL, ids=lambda c: f"{c['teacher']}-{c['student']}-{c['id']}")
def test_real_tokenizers(case):
    pieces = {side: case[f"{side}_tokens"] for side in ("teacher", "student")}
    extra = int(case["leading_space_repair"])  # the space that the teacher's tokenizer adds
    assert bytes.fromhex("".join(pieces["teacher"]))[extra:] == bytes.fromhex(
        "".join(pieces["student"])
    )
    teacher, student = ends_of(pieces["teacher"], extra), ends_of(pieces["student"])
    expected = case["alignment_indices"]
    if teacher[0] == 0:  # the added space is a token of its own: no bytes, hence outside
        expected = [[max(expected[0][0], 1), *expected[0][1:]], *expected[1:]]
    assert spans(align(student, teacher)) == expected


@pytest.mark.parametrize(
    "case", [case for case in SYNTHETIC if case["id"] not in NOT_COMPARED], ids=lambda c: c["id"]
)
def test_synthetic(case):
    pieces = case["inputs"]
    teacher, student = (ends_of(pieces[f"bytes_hex_{side}"]) for side in ("teacher", "student"))
    assert spans(align(student, teacher)) == case["outputs"]["alignment_indices"]


def test_every_excluded_case_exists():
    assert NOT_COMPARED.keys() <= {case["id"] for case in SYNTHETIC}


@pytest.mark.parametrize(
    ("student", "teacher"), [([], []), ([], [3, 4]), ([2], []), ([-1], [-1, -1]), ([-1], [2])]
)
def test_empty_sides(student, teacher):
    found = align(np.array(student, dtype=np.int64), np.array(teacher, dtype=np.int64))
    assert found.num_chunks == 0
    assert found.student_chunk.tolist() == [-1] * len(student)
    assert found.teacher_chunk.tolist() == [-1] * len(teacher)


def test_repeated_end_is_zero_width():
    # "ab" + nothing + "c" against "a" "b" + nothing + "c": the empty tokens are in no chunk
    found = align(np.array([0, 2, 2, 3]), np.array([1, 2, 2, 3]))
    assert found.student_chunk.tolist() == [-1, 0, -1, 1]
    assert found.teacher_chunk.tolist() == [0, 0, -1, 1]
    assert found.student_last.tolist() == [1, 3]


@st.composite
def segmentations(draw):
    """Two sides' ends on one text, with zero-width tokens; a side may stop early."""
    num_bytes = draw(st.integers(1, 30))

    def side():
        cuts = sorted(draw(st.sets(st.integers(1, num_bytes), min_size=1)))
        ends = [cuts[0]]
        for cut in cuts[1:]:
            ends += [-1] * draw(st.integers(0, 1)) + [cut]
        return np.array([-1] * draw(st.integers(0, 2)) + ends)

    return side(), side()


def brute_force(student, teacher):
    """Chunk of each token by looking at every common border for every token."""
    common = sorted({*student.tolist()} & {*teacher.tolist()} - {-1})

    def chunk(end):
        later = [index for index, border in enumerate(common) if border >= end]
        return later[0] if end > 0 and later else -1

    return [chunk(end) for end in student], [chunk(end) for end in teacher], common


@given(segmentations())
def test_equals_brute_force_and_covers_the_same_bytes(sides):
    student, teacher = sides
    found = align(student, teacher)
    expected_student, expected_teacher, common = brute_force(student, teacher)
    assert found.student_chunk.tolist() == expected_student
    assert found.teacher_chunk.tolist() == expected_teacher
    assert student[found.student_last].tolist() == common
    assert teacher[found.teacher_last].tolist() == common


@given(segmentations(), st.integers(1, 3))
def test_appended_zero_width_tokens_change_nothing(sides, count):
    student, teacher = sides
    found = align(student, teacher)
    padded = align(np.append(student, [-1] * count), np.append(teacher, [-1] * count))
    assert padded.student_chunk.tolist() == found.student_chunk.tolist() + [-1] * count
    assert padded.teacher_chunk.tolist() == found.teacher_chunk.tolist() + [-1] * count
    assert padded.student_last.tolist() == found.student_last.tolist()
    assert padded.teacher_last.tolist() == found.teacher_last.tolist()


@given(segmentations())
def test_sides_are_symmetric_and_int32_ends_serve(sides):
    student, teacher = sides
    found = align(student, teacher)
    swapped = align(teacher.astype(np.int32), student.astype(np.int32))
    assert found.student_chunk.tolist() == swapped.teacher_chunk.tolist()
    assert found.teacher_last.tolist() == swapped.student_last.tolist()


def test_a_chunk_lives_if_both_sides_are_known():
    found = align(np.array([-1, 2, 4, 6]), np.array([1, 2, 4, 6]))
    student = np.array([False, True, False, True])
    teacher = np.array([True, True, True, True])
    assert live_chunks(found, student, teacher).tolist() == [True, False, True]
    teacher = np.array([False, True, True, True])  # half of the first chunk is unknown
    assert live_chunks(found, student, teacher).tolist() == [False, False, True]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_groups_equal_a_loop(chunks):
    live, closes = np.array(chunks, dtype=bool).reshape(-1, 2).T
    expected, group, opened = [], -1, False
    for is_live, does_close in chunks:
        if is_live and not opened:
            group += 1
        expected.append(group if is_live else -1)
        opened = is_live and not does_close
    assert group_chunks(live, closes).tolist() == expected


def test_merging_keeps_the_last_tokens_of_each_group():
    fine = align(np.array([1, 2, 3, 4, 6]), np.array([1, 2, 3, 4, 5]))
    merged = merge_chunks(fine, np.array([0, 0, -1, 1]))
    assert merged.student_chunk.tolist() == [0, 0, -1, 1, -1]
    assert merged.teacher_last.tolist() == [1, 3]
    nothing = merge_chunks(fine, np.full(4, -1))
    assert nothing.num_chunks == 0
    assert nothing.student_chunk.tolist() == [-1] * 5
