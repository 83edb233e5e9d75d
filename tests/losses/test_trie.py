"""The trie against brute force over the vocabulary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.trie import Trie, join
from losses.alignment.vocabulary import Vocabulary

LETTERS = st.lists(st.sampled_from([0, 97, 98, 255]), max_size=6).map(bytes)
TABLES = st.lists(st.none() | LETTERS, max_size=12)


def build(table):
    return Trie.build(Vocabulary(tuple(table)))


def regular(table):
    return [(content, i) for i, content in enumerate(table) if content]


@given(TABLES)
def test_ids_are_sorted_by_bytes_then_id(table):
    assert build(table).ids.tolist() == [i for _, i in sorted(regular(table))]


@given(TABLES, LETTERS)
def test_starting_with(table, prefix):
    expected = [i for content, i in sorted(regular(table)) if content.startswith(prefix)]
    assert build(table).starting_with(prefix).tolist() == expected


@given(TABLES, st.lists(LETTERS, max_size=5))
def test_longest_prefix(table, texts):
    flat, starts, lengths = join(texts)
    ids, found = build(table).longest_prefix(flat, starts, starts + lengths)
    for text, token, length in zip(texts, ids.tolist(), found.tolist(), strict=True):
        fitting = [(-len(c), i) for c, i in regular(table) if text.startswith(c)]
        expected = min(fitting, default=(0, -1))
        assert (-length, token) == expected


@given(TABLES, st.lists(LETTERS, max_size=5), st.integers(1, 4))
def test_cover_takes_the_longest_again_and_again(table, texts, limit):
    lowest = dict(reversed(sorted(regular(table))))
    rows = build(table).cover(texts, limit)
    assert rows.shape == (len(texts), limit)
    for text, row in zip(texts, rows.tolist(), strict=True):
        expected, rest = [], text
        while fitting := [content for content in lowest if rest.startswith(content)]:
            expected.append(lowest[max(fitting, key=len)])
            rest = rest[len(max(fitting, key=len)) :]
        assert row == (expected + [-1] * limit)[:limit]


@pytest.mark.parametrize("table", [(), (None,), (b"",)])
def test_nothing_to_sort(table):
    trie = build(table)
    assert trie.cover([b"a", b""], 2).tolist() == [[-1, -1], [-1, -1]]
    assert trie.starting_with(b"").tolist() == []


def test_zero_bytes_at_the_end_count():
    trie = build([b"a", b"a\0", b"a\0\0"])
    assert trie.starting_with(b"a\0").tolist() == [1, 2]
    assert trie.cover([b"a\0\0\0"], 2).tolist() == [[2, -1]]


def test_a_very_long_token():
    trie = build([b" " * 5000, b" "])
    assert trie.cover([b" " * 5002], 4).tolist() == [[0, 1, 1, -1]]
