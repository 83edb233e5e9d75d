"""Tokenizers read from tiktoken, tekken and SentencePiece files, against the definitions."""

import base64
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from losses.alignment.vocabulary import byte_alphabet
from orchestrator.assets.toy.tokenizers import END_OF_TEXT, byte_level_tokenizer
from teachers.faithfulness import UnfaithfulTokenizer
from teachers.normalisation import DummyPrefix
from teachers.sentencepiece_files import sentencepiece_tokenizer
from teachers.text_tokens import TextTokens
from teachers.tiktoken_files import RankFile, byte_level_bpe, read_ranks, read_tekken
from teachers.tokenizer import Tokenizer

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("the an "), max_size=20)


def ranks_of(texts: Iterable[str]) -> dict[bytes, int]:
    """Byte strings in the order in which a byte-level tokenizer learnt them."""
    vocab = byte_level_tokenizer(texts).get_vocab()
    learnt = sorted(vocab.keys() - {END_OF_TEXT}, key=lambda piece: vocab[piece])
    alphabet = byte_alphabet()
    return {bytes(alphabet[c] for c in piece): rank for rank, piece in enumerate(learnt)}


@pytest.fixture(scope="module")
def ranks(toy_texts: list[str]) -> dict[bytes, int]:
    return ranks_of(toy_texts[:40])


class TestTiktokenFiles:
    def test_ranks_are_the_table(self, ranks, tmp_path):
        path = tmp_path / "toy.tiktoken"
        lines = [b"%s %d" % (base64.b64encode(content), rank) for content, rank in ranks.items()]
        path.write_bytes(b"\n".join(lines) + b"\n")
        assert read_ranks(path) == ranks
        specials = {"<end>": len(ranks) + 5}
        backend = byte_level_bpe(RankFile(read_ranks(path), PATTERN, specials))
        vocabulary = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "t").vocabulary
        assert {b: i for i, b in enumerate(vocabulary.token_bytes) if b is not None} == ranks
        assert vocabulary.roles == {len(ranks) + 5: "other"}
        kinds = [vocabulary.kind_of(len(ranks) + offset).value for offset in (0, 4, 5)]
        assert kinds == ["unused", "unused", "special"]

    @given(text=TEXTS)
    def test_merges_are_tiktokens(self, ranks, text):
        """Against the definition: join the adjacent pair of lowest rank until none is left."""
        shuffled = dict(reversed(ranks.items()))  # the ids count, not the order of the lines
        backend = byte_level_bpe(RankFile(shuffled, r"[\s\S]+", {}))
        parts = [bytes([byte]) for byte in text.encode()]
        while len(parts) > 1 and text.encode() not in ranks:
            joins = [ranks.get(a + b, 1 << 30) for a, b in pairwise(parts)]
            at = joins.index(min(joins))
            if joins[at] == 1 << 30:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        expected = [ranks[text.encode()]] if text.encode() in ranks else [ranks[p] for p in parts]
        assert backend.encode(text).ids == (expected if text else [])

    @pytest.mark.parametrize("line", [b"YQ==", b"YQ== x", b"Y*== 1", b"", b"YQ== 1 2"])
    def test_another_line_is_refused(self, tmp_path, line):
        path = tmp_path / "bad.tiktoken"
        path.write_bytes(b"YQ== 0\n" + line + b"\n")
        with pytest.raises(ValueError, match=r"bad.tiktoken:2: .* is not a tiktoken line"):
            read_ranks(path)

    def test_tekken(self, ranks, tmp_path):
        config = {
            "pattern": PATTERN,
            "default_num_special_tokens": 16,
            "default_vocab_size": len(ranks) - 9 + 16,
        }
        vocab = [
            {"rank": rank, "token_bytes": base64.b64encode(content).decode()}
            for content, rank in ranks.items()
        ]
        path = tmp_path / "tekken.json"
        path.write_text(json.dumps({"config": config, "vocab": vocab}))
        file = read_tekken(path)
        assert file.specials["<unk>"] == 0
        assert file.specials["<SPECIAL_15>"] == 15
        assert file.ids == {b: r + 16 for b, r in ranks.items() if r < len(ranks) - 9}


class TestSentencePieceFiles:
    WORDS = ("▁", *"thecas</>", "th", "he", "▁th", "▁the", "▁▁", "▁▁▁", "▁▁▁▁")

    def model(self, path: Path, kind: int, **flags: bool) -> Path:
        """A tiny model file: single characters, a few words, byte pieces, a control piece."""
        from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

        proto = sentencepiece.ModelProto()
        proto.trainer_spec.model_type = kind
        proto.trainer_spec.unk_id = 0
        for name, value in ({"remove_extra_whitespaces": False} | flags).items():
            setattr(proto.normalizer_spec, name, value)
        rows = [("<unk>", 0.0, 2), ("</s>", 0.0, 3), ("<user>", 0.0, 4)]
        rows += [(token, 0.0, 6) for token in BYTE_TOKENS]
        rows += [(word, -1 - rank / 10, 1) for rank, word in enumerate(self.WORDS)]
        for piece, score, type_ in rows:
            proto.pieces.add(piece=piece, score=score, type=type_)
        path.write_bytes(proto.SerializeToString())
        return path

    @pytest.mark.parametrize("kind", [1, 2])
    def test_read(self, tmp_path, kind):
        path = self.model(tmp_path / "m.model", kind, add_dummy_prefix=True)
        fast = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_tokenizer(path))
        tokenizer = Tokenizer(fast, "t")
        assert tokenizer.normalisation.prefix is DummyPrefix.ALWAYS
        found = tokenizer.encode_text(["the é</s><user>the"])[0]
        assert isinstance(found, TextTokens)
        assert found.ends[-1] == len("the é</s><user>the".encode())
        ids = found.ids.tolist()
        assert fast.convert_ids_to_tokens(ids[:2]) == ["▁the", "▁"]
        assert fast.convert_ids_to_tokens(ids[-2:]) == ["<user>", "▁the"]
        assert 1 not in ids
        [parsed] = tokenizer.encode_text(["the</s>"], parse_special=True)
        assert isinstance(parsed, TextTokens)
        assert parsed.ids.tolist()[-1] == 1
        assert (parsed.starts[-1], parsed.ends[-1]) == (3, 7)
        assert tokenizer.vocabulary.ids_of(b"t") == (3 + ord("t"), 3 + 256 + 1)

    @given(text=st.text(" thecas", max_size=24))
    def test_merges_are_sentencepieces(self, tmp_path, text):
        """Against the definition: join the pair of best score, the leftmost of equals."""
        backend = sentencepiece_tokenizer(self.model(tmp_path / "m.model", 2))
        scores = {word: rank for rank, word in enumerate(self.WORDS)}
        parts = list(("▁" + text if text else "").replace(" ", "▁"))
        while joins := [scores.get(a + b, 99) for a, b in pairwise(parts)]:
            at = joins.index(min(joins))
            if joins[at] == 99:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        assert backend.encode(text).tokens == parts

    def test_flags(self, tmp_path):
        path = self.model(tmp_path / "m.model", 1, remove_extra_whitespaces=True)
        backend = sentencepiece_tokenizer(path)
        tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "t")
        assert tokenizer.normalisation.steps[0] == "Strip"
        [good, bad] = tokenizer.encode_text(["the cat", "the  cat"])
        assert isinstance(good, TextTokens)
        assert isinstance(bad, UnfaithfulTokenizer)
        assert bad.reason == "normaliser changes the text"

    def test_word_model_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"m.model: model type 3, .*expected"):
            sentencepiece_tokenizer(self.model(tmp_path / "m.model", 3))
