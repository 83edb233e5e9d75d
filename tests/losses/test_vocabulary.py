"""Bytes of vocabulary entries, borders and fingerprints."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.byte_table import ByteTable
from losses.alignment.vocabulary import (
    Family,
    TokenKind,
    Vocabulary,
    byte_alphabet,
    bytes_of_piece,
)


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
        ("<0x41>", Family.METASPACE, b"<0x41>"),
        ("▁a", Family.METASPACE, b" a"),
    ],
)
def test_bytes_of_a_piece(piece, family, content):
    assert bytes_of_piece(piece, family) == content


@pytest.mark.parametrize("foreign", ["▁", " ", "\n", "\xa0", "\xad", "\x7f", "ń", "é́", "🙂"])
def test_byte_level_refuses_foreign_characters(foreign):
    first = next(c for c in foreign if c not in byte_alphabet())
    with pytest.raises(
        ValueError, match=f"{re.escape(repr(first))}, which is not in the byte-level alphabet"
    ):
        bytes_of_piece(f"a{foreign}", Family.BYTE_LEVEL)


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
        Vocabulary((None, b"a", b"b")),  # unused instead of special
    ]
    prints = {other.fingerprint for other in others} | {base.fingerprint}
    assert len(prints) == 7


def test_duplicate_bytes_keep_their_ids():
    # "<0x61>" and "a" are two ids of one byte string: both stay, and both may be borders
    vocabulary = Vocabulary((b"a", b"a", b" ", b" "))
    assert vocabulary.token_bytes[0] == vocabulary.token_bytes[1]
    assert vocabulary.border_ids.tolist() == [2, 3]
    assert vocabulary.ids_of(b"a") == (0, 1)
    assert vocabulary.ids_of(b"b") == ()


def test_kinds():
    vocabulary = Vocabulary((b"a", b"<sep>", None, None), {2: "pad"}, frozenset({1}))
    kinds = [vocabulary.kind_of(index) for index in range(4)]
    assert kinds == [TokenKind.TEXT, TokenKind.ADDED, TokenKind.SPECIAL, TokenKind.UNUSED]


def test_partial_characters_and_missing_bytes():
    vocabulary = Vocabulary(("é".encode(), b"\xc3", b"\xa9", None, b"a\xf0\x9f", b"", b"a"))
    assert vocabulary.partial_ids.tolist() == [1, 2, 4]
    assert 256 - len(vocabulary.missing_bytes) == 3
    assert ord("a") not in vocabulary.missing_bytes


@given(st.lists(st.none() | st.binary(max_size=5), min_size=1), st.data())
def test_table_gathers_what_joining_gives(token_bytes, data):
    table = ByteTable.of(token_bytes)
    ids = data.draw(st.lists(st.integers(0, len(token_bytes) - 1)))
    chosen = np.asarray(ids, dtype=np.int64)
    joined = table.gather(table.starts[chosen], table.widths[chosen])
    assert joined.tobytes() == b"".join(token_bytes[index] or b"" for index in ids)
