"""The projection W: small vocabularies by hand, properties, saving and loading."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.projection import (
    METADATA,
    TENSORS,
    Projection,
    ProjectionKey,
    ProjectionOptions,
    identity_projection,
)
from losses.alignment.projection_build import build_projection, exact_matches
from losses.alignment.vocabulary import Vocabulary

FIRST_OF_2, SECOND_OF_2 = 10 / 11, 1 / 11


def encoder(**texts):
    """An encoder that knows only these texts."""
    return lambda asked: [texts.get(t, []) for t in asked]


def by_characters(vocabulary):
    """An encoder that writes each character as the lowest id of its bytes, if it has one."""

    def encode(texts):
        rows = [[vocabulary.ids_of(c.encode())[:1] for c in text] for text in texts]
        return [[i for (i,) in row] if all(row) else [] for row in rows]

    return encode


def build(student, teacher, encode=None, *, encode_student=None, **options):
    return build_projection(
        student,
        teacher,
        by_characters(teacher) if encode is None else encode,
        ProjectionOptions(**options),
        encode_student,
    )


def test_numerals_by_hand():
    student = Vocabulary((b"201", b"20", b"2", b"222", b"7"))
    teacher = Vocabulary((b"0", b"1", b"2"))
    w = build(student, teacher)
    assert w.row(0) == pytest.approx({2: 0.9009009, 0: 0.0900901, 1: 0.00900901})
    assert w.row(1) == pytest.approx({2: FIRST_OF_2, 0: SECOND_OF_2})
    assert w.row(2) == {2: 1.0}
    assert w.row(3) == {2: 1.0}  # three times the same piece: one entry, but no exact match
    assert w.row(4) == {}
    assert w.exact.tolist() == [False, False, True, False, False]
    assert list(w.row(0)) == [2, 0, 1]  # the heaviest first
    assert (w.num_student, w.num_teacher) == (5, 3)
    assert w.student_ids.tolist() == [0, 0, 0, 1, 1, 2, 3]


def test_top_k_keeps_the_first_pieces():
    student, teacher = Vocabulary((b"abcde",)), Vocabulary(tuple(b"%c" % i for i in b"abcde"))
    assert list(build(student, teacher).row(0)) == [0, 1, 2, 3]
    assert build(student, teacher, top_k=1).row(0) == {0: 1.0}
    assert build(student, teacher, top_k=2).row(0) == pytest.approx({0: FIRST_OF_2, 1: SECOND_OF_2})


def test_a_row_whose_later_pieces_outweigh_the_first():
    # 0.9 on "b", 0.09 and 0.009 on "a" and "a": rows are sorted by their summed weights
    w = build(Vocabulary((b"baa",)), Vocabulary((b"a", b"b")))
    assert w.row(0) == pytest.approx({1: 0.9009009, 0: 0.0990991})


def test_roles_are_matched_and_strings_are_not():
    student = Vocabulary(
        (None, None, None, None, b"<s>"), {0: "start", 1: "end_of_turn", 2: "other"}
    )
    teacher = Vocabulary((b"<s>", None, None, None, None), {1: "other", 2: "start", 4: "start"})
    w = build(student, teacher)
    assert w.row(0) == {2: 1.0}  # of several the lowest
    assert w.row(1) == w.row(2) == w.row(3) == {}  # no such role; no role; unused
    assert w.row(4) == {0: 1.0}
    assert w.exact.tolist() == [True, False, False, False, True]


def test_of_two_ends_with_one_partner_the_one_of_its_role_is_exact():
    student = Vocabulary((None, None, b"a"), {0: "end", 1: "end_of_turn"})
    joint, base = Vocabulary((None, b"a"), {0: "end_of_turn"}), Vocabulary((b"a", None), {1: "end"})
    w = build(student, joint)
    assert [w.row(i) for i in range(3)] == [{0: 1.0}, {0: 1.0}, {1: 1.0}]
    assert w.exact.tolist() == [False, True, True]
    assert build(student, base).exact.tolist() == [True, False, True]
    back = build(joint, student)
    assert (back.row(0), back.exact.tolist()) == ({1: 1.0}, [True, True])
    assert build(base, student).row(1) == {0: 1.0}


@pytest.mark.parametrize(("written", "expected"), [([3], 3), ([1], 1), ([0, 2], 1), (None, 1)])
def test_of_duplicates_the_written_one(written, expected):
    student, teacher = Vocabulary((b"ab",)), Vocabulary((b"a", b"ab", b"b", b"ab"))
    encode = encoder(**({} if written is None else {"ab": written}))
    assert exact_matches(student, teacher, encode).tolist() == [expected]


def test_of_duplicate_bytes_in_a_cover_the_written_one():
    student, teacher = Vocabulary((b"a\xff",)), Vocabulary((b"a", b"a", b"\xff"))
    assert list(build(student, teacher, encoder(a=[1])).row(0)) == [1, 2]


def test_bytes_that_are_no_text_are_covered_by_the_longest_tokens():
    student = Vocabulary((b" \xe4\xb8", b"\xb8\xad\xe6", b"\xf0\x9f", b"\xe4\xb8"))
    teacher = Vocabulary((b" ", b"\xe4", b"\xb8", b"\xb8\xad", b"\xe6", b"\xe4\xb8"))
    w = build(student, teacher)
    assert w.row(0) == pytest.approx({0: FIRST_OF_2, 5: SECOND_OF_2})
    assert w.row(1) == pytest.approx({3: FIRST_OF_2, 4: SECOND_OF_2})
    assert w.row(2) == {}  # no token begins with this byte
    assert w.row(3) == {5: 1.0}
    assert w.exact.tolist() == [False, False, False, True]


def test_a_cover_stops_at_the_first_unknown_byte():
    w = build(Vocabulary((b"\xffa\xfea",)), Vocabulary((b"\xff", b"a")))
    assert w.row(0) == pytest.approx({0: FIRST_OF_2, 1: SECOND_OF_2})


def test_a_tokenizer_that_changes_the_text_is_not_believed():
    # the tokenizer puts a space in front: " ab" is not "ab"
    student, teacher = Vocabulary((b"ab",)), Vocabulary((b" ab", b"a", b"b"))
    w = build(student, teacher, encoder(ab=[0]))
    assert w.row(0) == pytest.approx({1: FIRST_OF_2, 2: SECOND_OF_2})


def test_reverse_adds_the_teachers_tokens_by_hand():
    student = Vocabulary((b"a", b"b", b"c\xff", b"cd"))
    teacher = Vocabulary((b"a", b"c", b"cdb", b"d", b"ab", b"\xff"))
    encode = encoder(cd=[1, 3])
    forward = build(student, teacher, encode)
    back = encoder(cdb=[3, 1], ab=[0, 1])
    both = build(student, teacher, encode, reverse=True, encode_student=back)
    assert forward.row(3) == pytest.approx({1: FIRST_OF_2, 3: SECOND_OF_2})
    # "cdb" is "cd" then "b": 10/11 more on teacher token 2, then the row is normed
    total = 1 + FIRST_OF_2
    assert both.row(3) == pytest.approx(
        {1: FIRST_OF_2 / total, 2: FIRST_OF_2 / total, 3: SECOND_OF_2 / total}
    )
    # "b" has no forward pieces; "cdb" and "ab" end with it, equally heavy
    assert forward.row(1) == {}
    assert both.row(1) == {2: 0.5, 4: 0.5}
    assert both.row(0) == {0: 1.0}  # an exact row stays exact
    assert both.row(2) == forward.row(2)


def test_reverse_needs_the_students_tokenizer():
    with pytest.raises(ValueError, match="pass encode_student"):
        build(Vocabulary((b"a",)), Vocabulary((b"b",)), reverse=True)


def test_top_k_is_at_least_one():
    with pytest.raises(ValueError, match="top_k is 0"):
        ProjectionOptions(top_k=0)


def test_empty_vocabularies():
    w = build(Vocabulary(()), Vocabulary((b"a",)))
    assert (w.num_student, w.num_teacher, len(w.weights)) == (0, 1, 0)
    w = build(Vocabulary((b"a", b"")), Vocabulary(()))
    assert w.row(0) == w.row(1) == {}


PIECES = st.lists(st.sampled_from([97, 98, 0xC3, 0xA9]), max_size=5).map(bytes)
TABLES = st.lists(st.none() | PIECES, max_size=10)


@given(TABLES, TABLES, st.integers(1, 4), st.booleans())
def test_properties_of_all_rows(student_table, teacher_table, top_k, reverse):
    student, teacher = Vocabulary(tuple(student_table)), Vocabulary(tuple(teacher_table))
    back = by_characters(student)
    w = build(student, teacher, encode_student=back, top_k=top_k, reverse=reverse)
    assert w.offsets.tolist() == sorted(w.offsets.tolist())
    assert w.offsets[0] == 0
    assert w.offsets[-1] == len(w.teacher_ids) == len(w.weights)
    for s, content in enumerate(student_table):
        row = w.row(s)
        assert len(row) <= top_k
        assert not row or sum(row.values()) == pytest.approx(1, abs=1e-6)
        assert list(row.values()) == sorted(row.values(), reverse=True)
        assert bool(w.exact[s]) == (content in teacher_table and bool(content))
        if w.exact[s]:
            assert [teacher_table[t] for t in row] == [content]
        elif content and row and not reverse:
            assert row == pytest.approx(spread(first_pieces(content, teacher_table, top_k)))


def first_pieces(content, table, limit):
    """By characters if all of them have tokens, else the longest tokens, one after another."""
    try:
        pieces = [c.encode() for c in content.decode()]
    except UnicodeDecodeError:
        pieces = []
    if not pieces or not all(piece in table for piece in pieces):
        pieces, rest = [], content
        while fitting := [other for other in table if other and rest.startswith(other)]:
            pieces.append(max(fitting, key=len))
            rest = rest[len(pieces[-1]) :]
    assert content.startswith(b"".join(pieces))
    return [table.index(piece) for piece in pieces[:limit]]


def spread(ids):
    """Tenths of tenths on each id."""
    row = {}
    for place, index in enumerate(ids):
        row[index] = row.get(index, 0) + 0.1**place / sum(0.1**p for p in range(len(ids)))
    return row


KEY = ProjectionKey("s", "t", "c", ProjectionOptions())


@pytest.fixture
def saved(tmp_path):
    student, teacher = Vocabulary((b"ab", b"a", None)), Vocabulary((b"a", b"b"))
    w = build(student, teacher)
    w.save(tmp_path, KEY)
    return w, tmp_path


def test_save_and_load(saved):
    w, folder = saved
    loaded = Projection.load(folder, KEY)
    for name in ("offsets", "teacher_ids", "weights", "exact"):
        ours, theirs = getattr(w, name), getattr(loaded, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.num_teacher == w.num_teacher == 2
    assert sorted(path.name for path in folder.iterdir()) == [METADATA, TENSORS]
    assert json.loads((folder / METADATA).read_text())["options"] == {"top_k": 4, "reverse": False}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (ProjectionKey("x", "t", "c", ProjectionOptions()), "student is s, expected x"),
        (ProjectionKey("s", "x", "c", ProjectionOptions()), "teacher is t, expected x"),
        (ProjectionKey("s", "t", "x", ProjectionOptions()), "cutting is c, expected x"),
        (ProjectionKey("s", "t", "c", ProjectionOptions(top_k=2)), "options is"),
        (ProjectionKey("s", "t", "c", ProjectionOptions(reverse=True)), "options is"),
        (ProjectionKey("s", "t", "c", ProjectionOptions(), recipe=99), "expected 99"),
    ],
)
def test_another_pairs_w_is_refused(saved, key, message):
    with pytest.raises(ValueError, match=message):
        Projection.load(saved[1], key)


def test_a_projection_is_a_key_of_its_own(saved):
    # losses keep what they make of W by the object: equal content is no reason to compare arrays
    w, folder = saved
    loaded = Projection.load(folder, KEY)
    assert len({w: 1, loaded: 2}) == 2


def test_identity():
    vocabulary = Vocabulary((b"a", None, b"b"), {1: "end"})
    w, built = identity_projection(3), build(vocabulary, vocabulary)
    for name in ("offsets", "teacher_ids", "weights", "exact", "num_teacher"):
        np.testing.assert_array_equal(getattr(w, name), getattr(built, name))
