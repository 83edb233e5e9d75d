"""The nearest token of another vocabulary, against tokenkit's table and every single distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from losses.alignment.vocabulary import Vocabulary
from losses.token_matching.nearest_tokens import NearestTokens


def table_of(source, target, limit=None):
    words = [Vocabulary(tuple(text.encode() for text in texts)) for texts in (source, target)]
    exact = np.array([[*target, text].index(text) for text in source])
    exact[exact == len(target)] = -1
    return NearestTokens(*words, exact, limit)


def test_table_of_tokenkit(golden):
    data = golden("mined/mined_mapping")
    source, target = data["inputs"]["vocab_new"], data["inputs"]["vocab_original"]
    source, target = ([text.replace("Ġ", " ") for text in one] for one in (source, target))
    table = table_of(source, target)
    assert table.of(np.arange(len(source))).tolist() == data["outputs"]["mapping"]


def by_hand(text, target, limit):
    """Every distance; ties in the order of lengths, from the short or the long end."""
    order = sorted(range(len(target)), key=lambda i: len(target[i]))
    middle = len(target[order[len(order) // 2]])
    if len(text) >= middle:
        order = order[::-1]
    near = [
        (Levenshtein.distance(text, target[i]), rank, i)
        for rank, i in enumerate(order)
        if limit is None
        or Levenshtein.distance(text, target[i]) < limit * (len(text) + len(target[i]))
    ]
    return min(near)[2] if near else -1


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    limit=st.sampled_from([None, 0.0, 0.2, 0.3, 0.5, 1.0]),
    size=st.integers(1, 150),
)
def test_equal_to_every_distance(seed, limit, size):
    random = np.random.default_rng(seed)
    source, target = (
        sorted({"".join(random.choice(list("ab c"), random.integers(1, 9))) for _ in range(n)})
        for n in (90, size)
    )
    table = table_of(source, target, limit)
    asked = random.permutation(len(source))[: len(source) // 2].reshape(1, -1)
    for ids in (asked, np.arange(len(source))):
        for index, found in zip(ids.ravel(), table.of(ids).ravel(), strict=True):
            text = source[index]
            expected = target.index(text) if text in target else by_hand(text, target, limit)
            assert found == expected


@pytest.mark.parametrize("limit", [None, 0.3])
def test_tokens_without_text_have_no_near_one(limit):
    source = Vocabulary((None, b"ab", None, b""), {0: "end", 2: "other"})
    table = NearestTokens(
        source, Vocabulary((b"abc", None), {1: "end"}), np.array([1, -1, -1, -1]), limit
    )
    assert table.of(np.arange(4)).tolist() == [1, 0, -1, -1]
    nothing = NearestTokens(
        source, Vocabulary((None,), {0: "end"}), np.array([0, -1, -1, -1]), limit
    )
    assert nothing.of(np.arange(4)).tolist() == [0, -1, -1, -1]
