"""What decides how a text is cut shows in the digests; what does not, does not."""

import json
import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from teachers.tokenizer import Tokenizer

State = dict[str, Any]


def changed(fast: PreTrainedTokenizerFast, change: Callable[[State], object]) -> Tokenizer:
    """The tokenizer with its tokenizer.json changed."""
    state = json.loads(fast.backend_tokenizer.to_str())
    change(state)
    backend = FastTokenizer.from_str(json.dumps(state))
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "changed")


CHANGES: dict[str, Callable[[State], object]] = {
    "merges": lambda state: state["model"]["merges"].reverse(),
    "ignore_merges": lambda state: state["model"].update(ignore_merges=True),
    "added token": lambda state: state["added_tokens"][0].update(lstrip=True),
    "normalizer": lambda state: state.update(normalizer={"type": "NFC"}),
}


@pytest.fixture(scope="module")
def plain(fast_tokenizers) -> Tokenizer:
    return changed(fast_tokenizers["bytelevel"], lambda state: None)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_cutting(fast_tokenizers, plain, change):
    other = changed(fast_tokenizers["bytelevel"], CHANGES[change])
    assert other.vocabulary.fingerprint == plain.vocabulary.fingerprint
    assert other.cutting != plain.cutting
    assert other.fingerprint != plain.fingerprint


def test_use_and_name_do_not_count(fast_tokenizers, plain):
    other = changed(fast_tokenizers["bytelevel"], lambda state: None)
    other.fast("a long text", truncation=True, max_length=3)
    other.backend.enable_padding(length=3)
    other.name = "another"
    assert (other.cutting, other.fingerprint) == (plain.cutting, plain.fingerprint)


def test_a_template_counts_for_documents_alone(fast_tokenizers):
    fast = deepcopy(fast_tokenizers["bytelevel"])
    tokenizers = []
    for template, choice in ((None, None), ("{{ messages }}", None), ("{{ messages }}", "plain")):
        fast.chat_template = template
        tokenizers.append(Tokenizer(deepcopy(fast), "t", template=choice))
    bare, own, plain = tokenizers
    assert bare.cutting == own.cutting == plain.cutting
    assert bare.fingerprint == plain.fingerprint != own.fingerprint


def test_dropout_is_left_out_and_told(fast_tokenizers, plain, caplog):
    with caplog.at_level(logging.WARNING):
        found = changed(
            fast_tokenizers["bytelevel"], lambda state: state["model"].update(dropout=0.5)
        )
    assert caplog.messages == ["changed: BPE dropout of 0.5 in tokenizer.json is left out"]
    text = ["the number of the object, and of another object"]
    assert [found.ids_of(text) for _ in range(9)] == [plain.ids_of(text)] * 9
    assert found.cutting == plain.cutting
