"""What a tokenizer makes of a text in the middle of a document."""

import json

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import normalizers
from tokenizers.normalizers import Prepend, Replace
from transformers import PreTrainedTokenizerFast

from teachers import inside
from teachers.inside import encode_inside
from teachers.tokenizer import Tokenizer

TEXTS = ["ing", " the", "  x", "a", " ", "\n", "\nx", "é", " 東", "201", "the object", "<bos>", ""]


@pytest.fixture(scope="session")
def prefixed(fast_tokenizers):
    """The toy SentencePiece tokenizer as Llama 2 has it: a space before every text."""
    backend = FastTokenizer.from_str(fast_tokenizers["sentencepiece"].backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([Prepend("▁"), Replace(" ", "▁")])
    backend.pre_tokenizer = None
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>"), "p")


def pieces(tokenizer, texts):
    table = tokenizer.vocabulary.token_bytes
    return [[table[index] for index in ids] for ids in encode_inside(tokenizer, texts)]


@pytest.mark.parametrize("family", ["bytelevel", "sentencepiece"])
def test_without_a_prefix_it_is_the_plain_encoding(tokenizers, family):
    found = list(encode_inside(tokenizers[family], TEXTS))
    assert found == tokenizers[family].ids_of(TEXTS)


def test_an_artificial_space_has_no_place(prefixed):
    for text, found in zip(TEXTS, pieces(prefixed, TEXTS), strict=True):
        assert b"".join(found) == text.encode()
    [alone] = prefixed.ids_of(["ing"])
    assert prefixed.vocabulary.token_bytes[alone[0]].startswith(b" ")  # what is avoided


def test_nothing_where_no_token_ends_behind_the_break(prefixed):
    joined = {"vocab": {"▁": 0, "\n": 1, "a": 2, "\na": 3}, "merges": [["\n", "a"]]}
    state = json.loads(prefixed.backend.to_str())
    state["model"] |= joined
    state["added_tokens"] = []
    state["model"]["unk_token"] = None
    tokenizer = Tokenizer.__new__(Tokenizer)
    tokenizer.__dict__ |= prefixed.__dict__
    tokenizer.backend = FastTokenizer.from_str(json.dumps(state | {"post_processor": None}))
    tokenizer.vocabulary = type(prefixed.vocabulary)((b" ", b"\n", b"a", b"\na"))
    assert list(encode_inside(tokenizer, ["a"])) == [[]]


def test_batches_join_up(tokenizers, monkeypatch):
    monkeypatch.setattr(inside, "BATCH_TEXTS", 2)
    found = list(encode_inside(tokenizers["bytelevel"], TEXTS))
    assert found == tokenizers["bytelevel"].ids_of(TEXTS)
