"""The longest old token that ends at each byte: published cases, brute force, specials."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.vocabulary import Vocabulary, byte_alphabet
from orchestrator.assets import resolve
from orchestrator.student.embeddings.ngrams import LONGEST, SuffixTable, longest_suffixes
from orchestrator.student.embeddings.vocabulary_pair import nothing
from teachers.inside import encode_inside
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "golden" / "expand_input_ids.json").read_text()
)["cases"]
NAMES = {"llama3": "tokenizers/llama-3", "gemma3": "tokenizers/gemma-3"}


def content_of(token: str) -> bytes:
    return bytes(byte_alphabet()[character] for character in token)


def expanded(case: dict[str, Any], table: SuffixTable) -> list[int]:
    return longest_suffixes(np.asarray([case["byte_ids"]]), table)[0].tolist()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['original']}-{case['text'][:9]}")
def test_published(case: dict[str, Any]):
    """With the old tokens that the case names and all single bytes."""
    start, answers = case["expanded_ids"][0], case["expanded_tokens"][1:]
    wanted = list(dict.fromkeys(content_of(token) for token in answers))
    listed = {i: content_of(t) for i, t in zip(case["expanded_ids"][1:], answers, strict=True)}
    table: list[bytes | None] = [None] * (max(case["expanded_ids"]) + 1)
    for index, content in listed.items():
        table[index] = content
    assert len(wanted) == len(listed)
    vocabulary = Vocabulary(tuple(table), {start: "start"})
    suffixes = SuffixTable.of(vocabulary, nothing, (*[-1] * 256, start))
    assert expanded(case, suffixes) == case["expanded_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NAMES))
def test_published_with_the_whole_vocabulary(name: str):
    try:
        folder = resolve(f"asset:{NAMES[name]}")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    tokenizer = Tokenizer.load(ModelSource(str(folder)), name)
    cases = [case for case in CASES if case["original"] == name]
    start = cases[0]["expanded_ids"][0]
    table = SuffixTable.of(
        tokenizer.vocabulary, partial(encode_inside, tokenizer), (*[-1] * 256, start)
    )
    for case in cases:
        assert expanded(case, table) == case["expanded_ids"]


def brute_force(text: list[int], words: list[bytes], alone: dict[int, int]) -> list[int]:
    found = []
    for end, last in enumerate(text):
        best, size = alone.get(last, -1), 0
        for start in range(max(0, end + 1 - LONGEST), end + 1):
            part = text[start : end + 1]
            if max(part) < 256 and bytes(part) in words and len(part) > size:
                best, size = words.index(bytes(part)), len(part)
        found.append(best)
    return found


@given(
    st.lists(st.text("ab", min_size=1, max_size=20), min_size=1, max_size=12, unique=True),
    st.lists(st.sampled_from([97, 98, 256, 257]), min_size=1, max_size=40),
)
def test_is_the_longest_and_never_reaches_across_a_special_token(words: list[str], text: list[int]):
    contents = [word.encode() for word in dict.fromkeys(["b", *words])]
    table = SuffixTable.of(Vocabulary(tuple(contents)), nothing, (*[-1] * 256, 5, -1))
    found = longest_suffixes(np.asarray([text, text]), table)
    expected = brute_force(text, contents, {256: 5})
    assert found.tolist() == [expected, expected]


def test_of_old_tokens_of_equal_bytes_the_written_one():
    """As with SentencePiece's ``a`` and ``<0x61>``."""
    encode: Callable[..., Any] = lambda texts: [[2] for _ in texts]  # noqa: E731
    table = SuffixTable.of(Vocabulary((b"a", b"b", b"a")), encode)
    assert longest_suffixes(np.asarray([[97]]), table).tolist() == [[2]]


def test_without_short_tokens_it_is_refused():
    with pytest.raises(ValueError, match="no old token has 16 bytes or fewer"):
        SuffixTable.of(Vocabulary((b"a" * 17, None)), nothing)
