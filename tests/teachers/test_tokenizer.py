"""Tokens as exact bytes, whatever the tokenizer's family and whatever the text."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import ByteLevel, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from losses.alignment.tokens import Tokens, byte_starts
from losses.document import text_document
from orchestrator.assets.toy.tokenizers import byte_level_tokenizer
from teachers.source import ModelSource
from teachers.text_tokens import TextTokens
from teachers.tokenizer import Tokenizer, UnfaithfulTokenizer

FAMILIES = ("bytelevel", "sentencepiece")
# SentencePiece writes a space as ▁, so a ▁ of the text is lost: see the test of refusals.
PIECES = st.characters(codec="utf-8", exclude_characters="▁") | st.sampled_from(
    [*" \t\n\rĠé🙂", "<0x41>", "<bos>", "the "]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)


def bytes_by_token(tokenizer: Tokenizer, tokens: Tokens, content: bytes) -> list[bytes]:
    """What each token covers, cut out of the document by the byte ends."""
    starts = byte_starts(tokens.byte_ends)
    return [content[a : max(a, b)] for a, b in zip(starts, tokens.byte_ends, strict=True)]


def encode(tokenizer: Tokenizer, text: str) -> Tokens:
    return tokenizer.encode([text_document("d", text)])[0]


def rebuilt(fast: PreTrainedTokenizerFast, **changed: Any) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer with some parts of its backend replaced."""
    backend = FastTokenizer.from_str(fast.backend_tokenizer.to_str())
    for name, value in changed.items():
        setattr(backend, name, value)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture
def fresh(toy_texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that a test may change."""
    return byte_level_tokenizer(toy_texts[:40])


class TestBytes:
    @pytest.mark.parametrize("family", FAMILIES)
    @given(text=TEXTS)
    def test_tokens_join_to_the_text(self, tokenizers, family, text):
        tokenizer = tokenizers[family]
        tokens = encode(tokenizer, text)
        joined = b"".join(tokenizer.vocabulary.token_bytes[i] or b"" for i in tokens.ids)
        assert joined == text.encode()

    @pytest.mark.parametrize("family", FAMILIES)
    @given(text=TEXTS)
    def test_byte_ends_cut_the_text_at_the_tokens(self, tokenizers, family, text):
        tokenizer = tokenizers[family]
        tokens = encode(tokenizer, text)
        cut = bytes_by_token(tokenizer, tokens, text.encode())
        assert cut == [tokenizer.vocabulary.token_bytes[i] or b"" for i in tokens.ids]
        assert tokens.byte_ends[0] == -1  # the start token
        assert (np.diff(tokens.byte_ends[1:]) > 0).all()
        assert tokens.byte_ends[-1] == (len(text.encode()) if text else -1)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_same_ids_as_the_tokenizer_itself(self, tokenizers, fast_tokenizers, family):
        text = "The value of x, naïve 🙂\n\n  twice."
        expected = fast_tokenizers[family](text, add_special_tokens=False)["input_ids"]
        assert encode(tokenizers[family], text).ids[1:].tolist() == expected

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("special", ["<|endoftext|>", "<bos>", "<eos>", "<pad>", "<unk>"])
    def test_text_like_a_special_token_is_text(self, tokenizers, family, special):
        tokenizer = tokenizers[family]
        tokens = encode(tokenizer, f"a{special}b")
        assert not set(tokens.ids[1:].tolist()) & set(tokenizer.vocabulary.roles)
        assert tokens.byte_ends[-1] == len(special) + 2

    def test_documents_are_read_apart_and_whole(self, tokenizers):
        tokenizer = tokenizers["bytelevel"]
        tokenizer.fast("a b c d e f", truncation=True, max_length=4)  # leaves its limit behind
        texts = ["a b c d e f g h i j", "", "x"]
        several = tokenizer.encode([text_document("d", text) for text in texts])
        assert [len(t) for t in several] == [len(encode(tokenizer, text)) for text in texts]
        assert several[0].byte_ends[-1] == 19

    def test_added_tokens_are_their_text(self, fresh):
        fresh.add_tokens([AddedToken("  ", special=False, normalized=False)])
        tokenizer = Tokenizer(fresh, "t")
        tokens = encode(tokenizer, "a   b")
        assert tokenizer.vocabulary.token_bytes[len(fresh) - 1] == b"  "
        assert len(fresh) - 1 in tokens.ids


class TestStartToken:
    def named(self, tokenizer: Tokenizer) -> str | None:
        start = tokenizer.start_id
        return None if start is None else tokenizer.fast.convert_ids_to_tokens(start)

    def test_the_tokenizers_own_comes_first(self, tokenizers):
        assert self.named(tokenizers["sentencepiece"]) == "<bos>"

    def test_own_wins_over_the_separator(self, fresh):
        fresh.add_special_tokens({"bos_token": "<s>"})
        template = TemplateProcessing("<s> $A", special_tokens=[("<s>", len(fresh) - 1)])
        fresh.backend_tokenizer.post_processor = template
        assert self.named(Tokenizer(fresh, "t")) == "<s>"

    def test_separator_wins_over_bos(self, fresh):
        fresh.add_special_tokens({"bos_token": "<s>"})
        assert self.named(Tokenizer(fresh, "t")) == "<|endoftext|>"

    def test_bos_without_separator(self, fast_tokenizers):
        fast = rebuilt(
            fast_tokenizers["sentencepiece"],
            post_processor=TemplateProcessing("$A", special_tokens=[]),
        )
        fast.bos_token = "<bos>"
        assert self.named(Tokenizer(fast, "t")) == "<bos>"

    def test_none(self, fast_tokenizers):
        fast = rebuilt(
            fast_tokenizers["sentencepiece"],
            post_processor=TemplateProcessing("$A", special_tokens=[]),
        )
        tokenizer = Tokenizer(fast, "t")
        assert tokenizer.start_id is None
        assert encode(tokenizer, "ab").byte_ends[0] > 0

    def test_override(self, fast_tokenizers):
        tokenizer = Tokenizer(fast_tokenizers["sentencepiece"], "t", start_token="<pad>")
        assert encode(tokenizer, "a").ids[0] == fast_tokenizers["sentencepiece"].pad_token_id

    @pytest.mark.parametrize("wrong", ["<s>", "the"])
    def test_unknown_override_is_refused(self, fast_tokenizers, wrong):
        with pytest.raises(ValueError, match=rf'^gem: start_token "{wrong}".*<bos>, <eos>'):
            Tokenizer(fast_tokenizers["sentencepiece"], "gem", start_token=wrong)


class TestRefusals:
    def test_unfaithful_document_is_named_with_the_place(self, fresh):
        fresh.backend_tokenizer.normalizer = normalizers.Replace("q", "k")
        tokenizer = Tokenizer(fresh, "lossy")  # the probe text holds no q
        bad = text_document("train.jsonl:7", "I quit")
        with pytest.raises(UnfaithfulTokenizer, match=r"train.jsonl:7.*lossy.*at byte 2") as caught:
            tokenizer.encode([text_document("good", "I go"), bad])
        assert "got b'I kuit', expected b'I quit'" in str(caught.value)
        assert not tokenizer.is_faithful(bad)
        assert tokenizer.is_faithful(text_document("good", "I go"))

    def test_only_the_unfaithful_of_many_texts_is_refused(self, fresh):
        fresh.backend_tokenizer.normalizer = normalizers.Replace("q", "k")  # of the same width
        texts = ["abc", "quit", "", "", "q", "xyz", "a q", "b"]
        found = Tokenizer(fresh, "lossy").encode_text(texts)
        read = [text for text, one in zip(texts, found, strict=True) if isinstance(one, TextTokens)]
        assert read == ["abc", "", "", "xyz", "b"]

    def test_a_metaspace_of_the_text_is_never_read_as_a_space(self, tokenizers):
        document = text_document("d", "a▁b")
        assert tokenizers["bytelevel"].is_faithful(document)
        assert not tokenizers["sentencepiece"].is_faithful(document)

    def test_lost_end_is_unfaithful(self, fresh):
        fresh.backend_tokenizer.normalizer = normalizers.Replace("qq", "")
        with pytest.raises(UnfaithfulTokenizer, match="at byte 2"):
            encode(Tokenizer(fresh, "t"), "abqq")

    @pytest.mark.parametrize("normalizer", [normalizers.Lowercase(), normalizers.Replace("a", "b")])
    def test_normalizer_that_changes_plain_text_is_refused_at_load(self, fresh, normalizer):
        fresh.backend_tokenizer.normalizer = normalizer
        with pytest.raises(ValueError, match=r"^t: .* plain English text .*not supported"):
            Tokenizer(fresh, "t")

    @pytest.mark.parametrize(
        ("normalizer", "good", "bad"),
        [
            (normalizers.NFD(), "e\u0301", "é"),
            (normalizers.NFKC(), "é", "ﬁ"),
            (normalizers.Strip(), "a b", "a b "),
        ],
    )
    def test_declared_normalizer_is_checked_on_each_text(self, fresh, normalizer, good, bad):
        fresh.backend_tokenizer.normalizer = normalizer
        tokenizer = Tokenizer(fresh, "t")
        assert tokenizer.normalisation.steps == (type(normalizer).__name__,)
        read, refused = tokenizer.encode_text([good, bad])
        assert isinstance(read, TextTokens)
        assert isinstance(refused, UnfaithfulTokenizer)
        assert refused.reason == "normaliser changes the text"

    def test_undeclared_change_is_refused_at_load(self, fresh):
        fresh.backend_tokenizer.pre_tokenizer = Sequence(
            [WhitespaceSplit(), ByteLevel(add_prefix_space=False)]
        )
        with pytest.raises(ValueError, match=r"^t: .*byte for byte \(at byte 6.*Hello, World"):
            Tokenizer(fresh, "t")

    def test_lost_bytes_are_refused_at_load(self, fresh):
        """A byte-level tokenizer without some of the 256 bytes drops them without a word."""
        state = json.loads(fresh.backend_tokenizer.to_str())
        del state["model"]["vocab"]["Ċ"]
        state["model"]["merges"] = [m for m in state["model"]["merges"] if "Ċ" not in "".join(m)]
        backend = FastTokenizer.from_str(json.dumps(state))
        with pytest.raises(ValueError, match="byte for byte"):
            Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "t")

    def test_error_survives_pickling(self, fresh):
        fresh.backend_tokenizer.normalizer = normalizers.NFC()
        [error] = Tokenizer(fresh, "t").encode_text(["e\u0301"])
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.reason) == (str(error), error.reason)

    def test_word_pieces_are_refused_at_load(self):
        backend = FastTokenizer(WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
        backend.decoder = WordPieceDecoder()
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
        with pytest.raises(ValueError, match=r"^bert: a WordPiece tokenizer .*loses bytes"):
            Tokenizer(fast, "bert")


def test_load_reads_a_saved_folder(tmp_path, fast_tokenizers, tokenizers):
    fast_tokenizers["sentencepiece"].save_pretrained(tmp_path)
    loaded = Tokenizer.load(ModelSource(str(tmp_path)), "t")
    assert loaded.vocabulary.fingerprint == tokenizers["sentencepiece"].vocabulary.fingerprint
    assert encode(loaded, "a <bos> b").ids.tolist() == (
        encode(tokenizers["sentencepiece"], "a <bos> b").ids.tolist()
    )


def test_families_differ(tokenizers):
    assert len({t.vocabulary.fingerprint for t in tokenizers.values()}) == 2


def test_roles(tokenizers):
    roles = tokenizers["sentencepiece"].vocabulary.roles
    assert sorted(roles.values()) == ["end", "pad", "start", "unknown"]
    assert tokenizers["bytelevel"].vocabulary.roles == {0: "end"}  # one token in three roles
