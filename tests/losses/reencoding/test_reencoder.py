"""What is encoded when, and what is remembered."""

import numpy as np
import pytest

from losses.base import Pair
from losses.methods.sedi import Sedi
from losses.reencoding.reencoder import ALONE, NONE, Front, Reencoder

METHOD = Sedi(k=6, window="last", precision="float32")


def test_the_table_is_made_on_first_use_and_once(world):
    reencoder = world.pair.reencoder
    assert world.encode.texts == []
    texts = {b.decode() for b in world.teacher_vocabulary.token_bytes if b and b not in PARTIAL}
    assert len(reencoder.pieces) == len(world.teacher_vocabulary)
    assert sorted(world.encode.texts) == sorted(texts)
    world.ahead(METHOD)
    assert world.pair.reencoder is reencoder
    assert world.encode.texts.count("ats") == 1


PARTIAL = {"é".encode()[:1], "é".encode()[1:]}


def test_a_text_is_encoded_once_whatever_the_document(world):
    first = world.ahead(METHOD)
    asked = world.encode.texts.copy()
    again = world.ahead(METHOD)
    assert world.encode.texts == asked
    assert len(asked) == world.pair.reencoder.num_encoded
    assert np.array_equal(first.scores, again.scores)
    assert np.array_equal(first.ids, again.ids)
    world.ahead(METHOD, world.teacher(5))
    assert len(world.encode.texts) > len(asked)


def test_when_full_all_is_forgotten_and_found_again(world):
    small = Reencoder(world.student_vocabulary, world.teacher_vocabulary, world.encode, 3)
    wide = world.pair.reencoder
    keys = [(f" c{letter}".encode(), NONE) for letter in "ats"]
    others = [(f"{letter}1".encode(), NONE) for letter in "cats"]
    for some in (keys, others[:2], keys[1:], others, keys):
        rows = [
            [r.pieces.lengths(r.numbers(some)), r.pieces.at(r.numbers(some), 0)]
            for r in (small, wide)
        ]
        assert np.array_equal(rows[0], rows[1])
    assert len(small.pieces) <= len(world.teacher_vocabulary) + len(others)


def rows_of(reencoder, keys):
    numbers = reencoder.numbers(keys)
    lengths = reencoder.pieces.lengths(numbers)
    return [
        [int(reencoder.pieces.at(numbers[i : i + 1], place)[0]) for place in range(length)]
        for i, length in enumerate(lengths.tolist())
    ]


def test_keys_and_their_tokens(world):
    reencoder = world.pair.reencoder
    front = Front(b" cl", drops_space=False)
    keys = [
        reencoder.key(front, 4),  # " clder"
        reencoder.key(front, 23),  # the end
        reencoder.key(front, 24),  # a special token without a partner
        reencoder.key(front, 19),  # half a character
        reencoder.key(Front(b"\xc3", drops_space=False), 20),
        reencoder.key(Front(b"", drops_space=True), 21),  # "clowns", but there is no "n"
        reencoder.key(Front(b"", drops_space=True), 25),  # "1"
        reencoder.key(ALONE, 25),
    ]
    assert rows_of(reencoder, keys) == [
        [3, 13, 14, 15],
        [3, 22],
        [],
        [],
        [19, 20],
        [],
        [16],
        [6, 16],
    ]
    exact = reencoder.pieces.exact(reencoder.numbers(keys)).tolist()
    assert exact == [True, True, True, False, True, False, True, True]


def test_what_the_tokenizer_changes_is_left_out(world):
    """It writes "t" for "s": then the tokens do not join to the text."""

    def changing(texts):
        return world.encode([text.replace("s", "t") for text in texts])

    pair = Pair(world.student_vocabulary, world.teacher_vocabulary, encode_student=changing)
    exact = pair.reencoder.pieces.exact(np.arange(len(world.teacher_vocabulary)))
    texts = world.teacher_vocabulary.token_bytes
    assert [b for b, e in zip(texts, exact.tolist(), strict=True) if not e] == [
        *(b"ats", b"s"),
        *("é".encode()[:1], "é".encode()[1:], b" clowns", b"n"),
    ]


def test_without_a_tokenizer_it_is_refused(world):
    pair = Pair(world.student_vocabulary, world.teacher_vocabulary)
    with pytest.raises(ValueError, match="pass encode_student"):
        world.ahead(METHOD, pair=pair)
