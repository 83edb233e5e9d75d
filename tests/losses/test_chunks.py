"""The finest common chunking against a brute force, its own laws and what other aligners lose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.chunks import align, align_batch, group_chunks, live_chunks, merge_chunks


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


@st.composite
def batches(draw):
    """Any number of documents; a side may be empty or have no bytes at all."""
    nothing = st.sampled_from([[], [-1], [-1, -1], [0], [-1, 0]]).map(
        lambda ends: np.array(ends, dtype=np.int64)
    )
    document = st.one_of(segmentations(), st.tuples(nothing, segmentations().map(lambda s: s[0])))
    document = st.one_of(document, document.map(lambda sides: sides[::-1]))
    return draw(st.lists(document, max_size=6))


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


@given(batches())
def test_a_batch_is_its_documents_one_by_one(documents):
    found = align_batch([one for one, _ in documents], [other for _, other in documents])
    assert len(found) == len(documents)
    for (student, teacher), one in zip(documents, found, strict=True):
        expected_student, expected_teacher, common = brute_force(student, teacher)
        assert one.student_chunk.tolist() == expected_student
        assert one.teacher_chunk.tolist() == expected_teacher
        assert student[one.student_last].tolist() == common
        assert teacher[one.teacher_last].tolist() == common


def test_both_sides_of_a_batch_are_needed():
    with pytest.raises(ValueError, match="2 documents of the student and 1 of the teacher"):
        align_batch([np.array([1]), np.array([2])], [np.array([1])])


def test_given_ends_are_not_written_to():
    student, teacher = np.array([-1, 2, -1, 4]), np.array([-1, 4])
    align(student, teacher)
    assert student.tolist() == [-1, 2, -1, 4]
    assert teacher.tolist() == [-1, 4]


def chunks_of(student, teacher):
    found = align(np.array(student), np.array(teacher))
    return found.student_chunk.tolist(), found.teacher_chunk.tolist()


# What other aligners lose: each of these is one document, and no border may be missed.


def test_start_token_on_one_side_before_a_space():
    # " Hi there": <s> " Hi" " there" against " H" "i" " there"
    assert chunks_of([-1, 3, 9], [2, 3, 9]) == ([-1, 0, 1], [0, 0, 1])


def test_special_token_in_the_middle_of_one_side():
    # "A" <sep> "B" "C" against "A" "B" "C", as in packed documents or calls of tools
    assert chunks_of([1, -1, 2, 3], [1, 2, 3]) == ([0, -1, 1, 2], [0, 1, 2])


def test_space_that_a_tokenizer_puts_before_each_turn():
    # "Hi" "Yo" against <s> "▁" "Hi" </s> "▁" "Y" "o": the added spaces are not in the document
    assert chunks_of([2, -1, 4], [-1, 0, 2, -1, 2, 3, 4]) == (
        [0, -1, 1],
        [-1, -1, 0, -1, -1, 1, 1],
    )


def test_composed_character_against_its_parts():
    # "e" + U+0301 + "x" is 4 bytes: "e" "◌́" "x" against NFC's "é" "x", which stands for 3 and 1
    assert chunks_of([1, 3, 4], [3, 4]) == ([0, 0, 1], [0, 1])


def test_left_padding():
    assert chunks_of([-1, -1, -1, 2, 4], [-1, 1, 2, 4]) == ([-1, -1, -1, 0, 1], [-1, 0, 0, 1])


def test_documents_packed_into_one_row():
    # two documents with a separator on both sides; "cd" of the second is cut differently
    assert chunks_of([-1, 2, -1, 4, 5], [2, -1, 3, 4, 5]) == (
        [-1, 0, -1, 1, 2],
        [0, -1, 1, 1, 2],
    )


def test_names_of_roles_in_the_text():
    # "user" "\n" "model" are text like any other: only ids and the renderer make a template
    assert chunks_of([4, 5, 10], [4, 5, 7, 10]) == ([0, 1, 2], [0, 1, 2, 2])


def test_text_that_one_side_lacks_at_the_end():
    assert chunks_of([2, 4, 6], [2, 3]) == ([0, -1, -1], [0, -1])
