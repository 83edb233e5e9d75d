"""How tokens are spelled in another tokenizer's pieces."""

import pytest

from losses.alignment.vocabulary import Vocabulary
from orchestrator.hypernetwork.pieces import Speller

TOKENS = [b" the", b"The", b"ing", b"\n\n", b"   ", "né".encode(), "東".encode()]
TOKENS += [b"\xc3", b"\xff\xfe"]


@pytest.mark.parametrize("name", ["bytelevel", "sentencepiece"])
def test_pieces_join_to_the_token(tokenizers, name):
    tokenizer = tokenizers[name]
    vocabulary = tokenizer.vocabulary
    for content, pieces in zip(TOKENS, Speller(tokenizer).spell(TOKENS), strict=True):
        assert b"".join(vocabulary.token_bytes[index] for index in pieces) == content


def test_a_token_of_the_model_is_itself(tokenizers):
    vocabulary = tokenizers["sentencepiece"].vocabulary
    contents = [content for content in vocabulary.token_bytes if content]
    spelled = Speller(tokenizers["sentencepiece"]).spell(contents)
    assert all(len(pieces) == 1 for pieces in spelled)
    # of two ids with the same bytes it is the one that text is read as, not the byte's
    letter = dict(zip(contents, spelled, strict=True))[b"a"]
    assert letter == (tokenizers["sentencepiece"].backend.token_to_id("a"),)


def test_text_is_what_the_tokenizer_makes_of_it(tokenizers):
    tokenizer = tokenizers["bytelevel"]
    text = " abstraction"
    assert Speller(tokenizer).spell([text.encode()]) == [tuple(tokenizer.ids_of([text])[0])]


def test_answers_are_remembered_and_in_order(tokenizers):
    speller = Speller(tokenizers["bytelevel"])
    first = speller.spell(TOKENS)
    assert speller.spell([*TOKENS[::-1], TOKENS[0]]) == [*first[::-1], first[0]]


def test_a_byte_that_the_model_lacks_is_beyond_its_vocabulary(tokenizers, monkeypatch):
    tokenizer = tokenizers["bytelevel"]
    contents = [None if b == b"\xff" else b for b in tokenizer.vocabulary.token_bytes]
    monkeypatch.setattr(tokenizer, "vocabulary", Vocabulary(tuple(contents)))
    (pieces,) = Speller(tokenizer).spell([b"\xffa"])
    assert pieces == (len(contents) + 255, tokenizer.vocabulary.ids_of(b"a")[0])


def test_an_empty_token_is_refused(tokenizers):
    with pytest.raises(ValueError, match="an empty token has no pieces"):
        Speller(tokenizers["bytelevel"]).spell([b""])
