"""Documents are cut to a length in tokens, where every tokenizer parts and chats end a turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from losses.alignment.tokens import Tokens
from losses.document import Document, Segment, chat_document, text_document
from orchestrator.assets.toy.tokenizers import byte_level_tokenizer
from orchestrator.cutting import border, cut_to_length
from orchestrator.data import prepare
from teachers.tokenizer import Tokenizer, UnfaithfulTokenizer

FAMILIES = ("bytelevel", "sentencepiece")


@pytest.fixture(scope="module")
def lossy(toy_texts: list[str]) -> Tokenizer:
    """Reads q as k, which its probe text does not show."""
    fast = byte_level_tokenizer(toy_texts[:40])
    fast.backend_tokenizer.normalizer = normalizers.Replace("q", "k")
    return Tokenizer(fast, "lossy")


def cut(document: Document, tokenizer: Tokenizer, length: int) -> Document:
    """One document cut; it must fit, and come with its own tokens."""
    [(short, view)] = cut_to_length([document], tokenizer, length)
    assert isinstance(view, Tokens)
    assert view.ids.tolist() == tokenizer.encode([short])[0].ids.tolist()
    assert len(view) <= length
    return short


class TestCut:
    @pytest.mark.parametrize("family", FAMILIES)
    @given(
        parts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="▁")), max_size=4),
        length=st.integers(2, 12),
    )
    def test_within_length_at_a_character_border(self, tokenizers, family, parts, length):
        tokenizer = tokenizers[family]
        segments = tuple(Segment(f"s{i}", p.encode(), i % 2 == 1) for i, p in enumerate(parts))
        document = Document("d", segments)
        short = cut(document, tokenizer, length)
        assert document.content.startswith(short.content)
        short.content.decode()  # no half character
        assert [s.role for s in short.segments] == [s.role for s in document.segments]
        assert (short.scored == document.scored[: len(short.content)]).all()
        if len(tokenizer.encode([document])[0]) <= length:
            assert short is document

    @pytest.mark.parametrize("family", FAMILIES)
    @given(st.lists(st.sampled_from(["the", "object", " ", "\n\n", "x1", "naïve,"]), min_size=9))
    def test_no_token_is_cut_for_any_tokenizer(self, tokenizers, family, words):
        """The tokens of the rest begin where the cut is, for a tokenizer that was not asked."""
        document = text_document("d", " ".join(words))
        short = cut(document, tokenizers[family], 8)
        for other in tokenizers.values():
            whole = other.encode([document])[0].ids.tolist()
            assert other.encode([short])[0].ids.tolist() == whole[: len(other.encode([short])[0])]

    def test_keeps_the_words_that_fit(self, tokenizers):
        text = "Every object has an identity, a type and a value. " * 3
        tokens = tokenizers["bytelevel"].encode([text_document("d", text)])[0]
        short = cut(text_document("d", text), tokenizers["bytelevel"], 20).content
        rest = text.encode()[len(short) : tokens.byte_ends[19]]
        assert rest.strip().isalpha()  # at most the beginning of one word is given up
        assert text.encode()[len(short)] == ord(" ")

    def test_without_white_space_nearby_it_keeps_as_much_as_fits(self, tokenizers):
        text = "word " + "東京" * 100
        tokens = tokenizers["bytelevel"].encode([text_document("d", text)])[0]
        short = cut(text_document("d", text), tokenizers["bytelevel"], 120).content
        assert len(short) > tokens.byte_ends[119] - 3

    @pytest.mark.parametrize(
        ("text", "most", "expected"),
        [
            ("one two", 7, 3),
            ("one two", 3, 3),
            ("one  \n two", 8, 3),  # never inside white space
            ("one  \n two", 5, 3),
            (" one", 3, 3),
            ("a" + "b" * 64 + " c", 66, 65),
            ("a " + "b" * 64, 65, 1),
            ("a " + "b" * 65, 66, 66),  # too far away
            ("日本語", 7, 6),
        ],
    )
    def test_borders(self, text, most, expected):
        content = text.encode() + b"x"
        assert border(content, most) == expected

    def test_several_at_once(self, tokenizers, lossy):
        documents = [text_document(str(i), "some words " * i) for i in range(9)]
        together = cut_to_length(documents, tokenizers["bytelevel"], 12)
        apart = [cut(document, tokenizers["bytelevel"], 12) for document in documents]
        assert [short for short, _ in together] == apart
        [(whole, view)] = cut_to_length([text_document("d", "q " * 99)], lossy, 12)
        assert isinstance(view, UnfaithfulTokenizer)
        assert len(whole.content) == 198


TALK = [
    ("system", "Be brief."),
    ("user", "What is a value?"),
    ("assistant", "An object with a type and an identity, as every object is."),
    ("user", "And a type?"),
    ("assistant", "Another object."),
]


@pytest.fixture(scope="module")
def chatty(toy_texts: list[str]) -> Tokenizer:
    """A tokenizer with a chat template that trims."""
    fast = byte_level_tokenizer(toy_texts[:40])
    fast.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    fast.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content | trim }}<|end|>{% endfor %}"
    )
    return Tokenizer(fast, "chatty")


class TestCutChats:
    def test_every_length(self, chatty):
        document = chat_document("d", TALK)
        whole = len(chatty.encode([document])[0])
        shorts = [cut(document, chatty, length) for length in range(2, whole + 1)]
        assert shorts[-1] is document
        sizes = [len(short.content) for short in shorts]
        assert sizes == sorted(sizes)
        assert all(document.content.startswith(short.content) for short in shorts)
        kinds = [[s.role for s in short.segments] for short in shorts]
        first = ["system", "user", "assistant"]
        ended = [*first, "end_of_turn"]
        seen = [kind for i, kind in enumerate(kinds) if kind != kinds[i - 1]]
        assert seen == [[], first, ended, [s.role for s in document.segments]]

    def test_whole_turns_are_dropped(self, chatty):
        whole = chat_document("d", TALK)
        length = len(chatty.encode([whole])[0])
        assert cut(whole, chatty, length - 1) == chat_document("d", TALK[:3])

    def test_as_many_turns_as_fit(self, chatty):
        talk = [*TALK, *TALK[3:], *TALK[1:3]]
        for turns in (2, 3):
            kept = chat_document("d", talk[: 1 + 2 * turns])
            length = len(chatty.encode([kept])[0])
            assert cut(chat_document("d", talk), chatty, length) == kept
            assert cut(chat_document("d", talk), chatty, length + 3) == kept

    def test_few_passes(self, chatty, monkeypatch):
        calls, original = [], Tokenizer.read
        monkeypatch.setattr(
            Tokenizer, "read", lambda self, rows: calls.append(len(rows)) or original(self, rows)
        )
        talk = chat_document("d", [("user", "Why?"), ("assistant", "words and" + " words" * 90)])
        cut_to_length([talk] * 9, chatty, 40)
        assert calls == [9, 9]

    def test_inside_the_first_answer(self, chatty):
        answer = chat_document("d", TALK[:3])
        length = len(chatty.encode([answer])[0])
        short = cut(chat_document("d", TALK), chatty, length - 4)
        assert [s.role for s in short.segments] == ["system", "user", "assistant"]
        kept = short.segments[-1].content
        assert TALK[2][1].encode().startswith(kept + b" ")
        tokens = chatty.encode([short])[0]
        assert tokens.byte_ends.max() == len(short.content)  # the end of turn is no event

    def test_no_room_for_an_answer(self, chatty):
        document = chat_document("d", [("system", "Be brief. " * 9 + "Go."), *TALK[1:]])
        small = chat_document("e", TALK[3:])
        length = len(chatty.encode([small])[0])
        assert cut(document, chatty, length).num_scored_bytes == 0
        prepared = prepare([document, small], [chatty], length)
        assert prepared.num_unscored == 1
        assert [d.name for d in prepared.documents] == ["e"]

    def test_prepare(self, chatty, tokenizers):
        trimmed = chat_document("trimmed", [("user", " Hi"), ("assistant", "So.")])
        documents = [chat_document("talk", TALK), trimmed, text_document("text", "Hi there")]
        length = len(chatty.encode(documents[:1])[0]) - 1
        prepared = prepare(documents, [chatty, tokenizers["sentencepiece"]], length)
        assert [d.name for d in prepared.documents] == ["talk", "text"]
        reason = "the chat template trims white space around a message"
        assert prepared.reasons == {"chatty": {reason: 1}, "sentencepiece": {}}
        assert prepared.num_cut == 1
