"""Bytes of vocabulary entries, borders and fingerprints."""

import numpy as np
import pytest

from losses.alignment.vocabulary import Family, Vocabulary, byte_alphabet, bytes_of_piece


def test_alphabet_covers_each_byte_once():
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["ĉ"] == 9  # tab


@pytest.mark.parametrize(
    ("piece", "family", "content"),
    [
        ("Ġwor", Family.BYTE_LEVEL, b" wor"),
        ("Ã©", Family.BYTE_LEVEL, "é".encode()),
        ("ðŁ", Family.BYTE_LEVEL, b"\xf0\x9f"),  # first half of an emoji
        ("ĻĤ", Family.BYTE_LEVEL, b"\x99\x82"),  # second half
        ("▁▁a", Family.SENTENCEPIECE, b"  a"),
        ("é", Family.SENTENCEPIECE, "é".encode()),
        ("<0xF0>", Family.SENTENCEPIECE, b"\xf0"),  # one byte of a character
        ("<0xZZ>", Family.SENTENCEPIECE, b"<0xZZ>"),  # looks like a byte, is none
        ("<0x41>", Family.BYTE_LEVEL, b"<0x41>"),
    ],
)
def test_bytes_of_a_piece(piece, family, content):
    assert bytes_of_piece(piece, family) == content


def test_byte_level_refuses_foreign_characters():
    with pytest.raises(ValueError, match="'▁', which is not in the byte-level alphabet"):
        bytes_of_piece("▁a", Family.BYTE_LEVEL)


def test_borders_are_words_and_specials():
    vocabulary = Vocabulary((None, b" a", b"a", b"\n", b"\tb", b"", b"\r", b"\xf0"), {0: "end"})
    assert vocabulary.border_ids.tolist() == [0, 1, 3, 4]
    assert Vocabulary((b"a",)).border_ids.dtype == np.int64
    assert len(vocabulary) == 8


def test_fingerprint_tells_every_difference():
    base = Vocabulary((None, b"a", b"b"), {0: "end"})
    assert base.fingerprint == Vocabulary((None, b"a", b"b"), {0: "end"}).fingerprint
    others = [
        Vocabulary((None, b"b", b"a"), {0: "end"}),  # other order
        Vocabulary((None, b"a", b"b"), {0: "start"}),  # other role
        Vocabulary((None, b"a", b"b", b"b"), {0: "end"}),  # a duplicate more
        Vocabulary((b"\0end", b"a", b"b")),  # a regular token that spells the special one
        Vocabulary((None, b"ab", b""), {0: "end"}),  # the same bytes joined
    ]
    prints = {other.fingerprint for other in others} | {base.fingerprint}
    assert len(prints) == 6


def test_duplicate_bytes_keep_their_ids():
    # "<0x61>" and "a" are two ids of one byte string: both stay, and both may be borders
    vocabulary = Vocabulary((b"a", b"a", b" ", b" "))
    assert vocabulary.token_bytes[0] == vocabulary.token_bytes[1]
    assert vocabulary.border_ids.tolist() == [2, 3]
