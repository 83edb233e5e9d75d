"""Whole words and unbiased chunks against loops, and the file of biases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from losses.alignment.bias import PairBias, load_pair_bias
from losses.alignment.chunks import align
from losses.alignment.coarser import space_chunks, unbiased_chunks
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.methods.alm import Alm

LETTERS = Vocabulary((None, b" ", b"a", b" a", b"aa", b"a ", b"\n"), {0: "end"})


def bias_of(pairs, threshold_side="teacher"):
    """Biases from {(teacher id, student id): bias} on one side, and none on the other."""
    keys = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    values = {"teacher": np.zeros(len(pairs)), "student": np.zeros(len(pairs))}
    values[threshold_side] = np.array(list(pairs.values()), dtype=np.float64)
    return PairBias(
        keys[:, 0],
        keys[:, 1],
        values["teacher"],
        values["student"],
        LETTERS.fingerprint,
        LETTERS.fingerprint,
    )


@st.composite
def rows(draw):
    """Tokens of one text twice: pieces of LETTERS, with a zero-width token now and then."""
    text = draw(st.text("a \n", min_size=1, max_size=12)).encode()

    def side():
        ids, ends, at = [0], [-1], 0
        while at < len(text):
            fits = [i for i in range(1, 7) if text.startswith(LETTERS.token_bytes[i], at)]
            choice = draw(st.sampled_from(fits))
            if draw(st.booleans()):
                ids.append(0)
                ends.append(-1)
            at += len(LETTERS.token_bytes[choice])
            ids.append(choice)
            ends.append(at)
        return Tokens(np.array(ids, dtype=np.int64), np.array(ends, dtype=np.int64))

    return text, side(), side()


def brute_force(student, teacher, closes):
    """Groups of borders: after each common border but the last, join or cut."""
    common = sorted({*student.byte_ends.tolist()} & {*teacher.byte_ends.tolist()} - {-1, 0})
    groups, group = {}, 0
    for border, following in zip(common, [*common[1:], None], strict=True):
        groups[border] = group
        if following is None:
            break
        gaps = []
        for side in (student, teacher):
            last = side.byte_ends.tolist().index(border)
            gaps.append(side.byte_ends[last + 1] == -1)
        group += all(gaps) or closes(border)
    return groups


def assert_equal(found, student, teacher, groups):
    for chunk, ends in (
        (found.student_chunk, student.byte_ends),
        (found.teacher_chunk, teacher.byte_ends),
    ):
        reached = max(groups, default=0)
        for one, end in zip(chunk.tolist(), ends.tolist(), strict=True):
            expected = groups[min(b for b in groups if b >= end)] if 0 < end <= reached else -1
            assert one == expected


@given(rows())
def test_words_equal_a_loop(row):
    text, student, teacher = row
    found = space_chunks(align(student.byte_ends, teacher.byte_ends), student, LETTERS)
    expected = brute_force(student, teacher, lambda border: text[border : border + 1] == b" ")
    assert_equal(found, student, teacher, expected)


@given(
    rows(),
    st.dictionaries(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.sampled_from([0.1, 0.3])),
    st.sampled_from(["teacher", "student"]),
)
def test_unbiased_chunks_equal_a_loop(row, pairs, side):
    _, student, teacher = row
    fine = align(student.byte_ends, teacher.byte_ends)
    found = unbiased_chunks(fine, student, LETTERS, teacher.ids, bias_of(pairs, side), 0.1)

    def closes(border):
        last = [int(one.ids[one.byte_ends.tolist().index(border)]) for one in (teacher, student)]
        return pairs.get(tuple(last), 0.0) <= 0.1

    assert_equal(found, student, teacher, brute_force(student, teacher, closes))


def test_space_that_is_not_in_the_document_parts_no_word():
    # "aa" cut as "▁a" "a" (the first one's space was added) and, after a break, "a" "▁a"
    tokens = Tokens(np.array([3, 2, 3, 2]), np.array([1, 2, 3, 4]))
    fine = align(tokens.byte_ends, tokens.byte_ends)
    assert space_chunks(fine, tokens, LETTERS).student_chunk.tolist() == [0, 0, 0, 0]
    tokens = Tokens(np.array([3, 2, 3, 2]), np.array([1, 2, 4, 5]))
    fine = align(tokens.byte_ends, tokens.byte_ends)
    assert space_chunks(fine, tokens, LETTERS).student_chunk.tolist() == [0, 0, 1, 1]


def test_end_of_turn_is_never_joined():
    # "a" "a" <end of turn, one byte> "a": no bias anywhere, and no space
    tokens = Tokens(np.array([2, 2, 0, 2]), np.array([1, 2, 3, 4]))
    fine = align(tokens.byte_ends, tokens.byte_ends)
    assert space_chunks(fine, tokens, LETTERS).student_chunk.tolist() == [0, 0, 1, 2]
    biased = bias_of({(2, 2): 1.0, (0, 0): 1.0})
    found = unbiased_chunks(fine, tokens, LETTERS, tokens.ids, biased, 0.1)
    assert found.student_chunk.tolist() == [0, 0, 1, 2]


def test_no_chunks():
    nothing = Tokens(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    fine = align(nothing.byte_ends, nothing.byte_ends)
    assert space_chunks(fine, nothing, LETTERS).num_chunks == 0
    found = unbiased_chunks(fine, nothing, LETTERS, nothing.ids, bias_of({}), 0.1)
    assert found.num_chunks == 0


def test_bias_file_round_trip(tmp_path):
    path = tmp_path / "bias.safetensors"
    bias_of({(1, 2): 0.25, (3, 1): 0.5}, "student").save(path)
    loaded = load_pair_bias(str(path))
    found = loaded.larger(np.array([3, 1, 2, 1]), np.array([1, 2, 1, 3]))
    assert found.tolist() == [0.5, 0.25, 0.0, 0.0]


def test_wrong_bias_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_pair_bias(str(tmp_path / "missing"))
    path = tmp_path / "bias.safetensors"
    save_file({"teacher_ids": np.zeros(1)}, path)
    with pytest.raises(ValueError, match="lacks student_ids, teacher_bias, student_bias, teacher"):
        load_pair_bias(str(path))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"bias_file: .*bias\.safetensors is no whole safetensors"):
        load_pair_bias(str(path))
    path = tmp_path / "other.safetensors"
    bias_of({(1, 2): 0.25}).save(path)
    method = Alm(chunks="unbiased", bias_file=str(path))
    method.check(Pair(LETTERS, LETTERS))
    other = Vocabulary((None, b" "), {0: "end"})
    with pytest.raises(ValueError, match="its student's vocabulary is"):
        method.check(Pair(other, LETTERS))


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": "unbiased"},
        {"chunks": "unbiased", "bias_file": "relative.safetensors"},
        {"bias_file": "/bias.safetensors"},
        {"chunks": "space", "bias_threshold": 0.1},
        {"chunks": "words"},
        {"chunks": "unbiased", "bias_file": "/b", "bias_threshold": math.nan},
    ],
    ids=repr,
)
def test_useless_and_missing_options_are_refused(options):
    with pytest.raises(ValueError, match=r"bias_file|bias_threshold|chunks"):
        Alm(**options)
