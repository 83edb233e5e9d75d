"""Rows become documents, cut by bytes; every step's documents are a pure function."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from losses.alignment.tokens import Tokens
from losses.document import Document, Segment, chat_document, text_document
from orchestrator.assets.toy.tokenizers import byte_level_tokenizer
from orchestrator.cutting import border, cut_to_length
from orchestrator.data import documents_of_step, load_documents, prepare
from orchestrator.errors import ConfigError
from teachers.tokenizer import Tokenizer, UnfaithfulTokenizer

FAMILIES = ("bytelevel", "sentencepiece")


@pytest.fixture
def file(tmp_path: Path):
    """Write lines into a JSONL file; dictionaries as JSON, bytes as they are."""

    def write(*lines: object, name: str = "train.jsonl") -> str:
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (tmp_path / name).write_bytes(b"\n".join(raw) + b"\n")
        return str(tmp_path / name)

    return write


@pytest.fixture(scope="module")
def lossy(toy_texts: list[str]) -> Tokenizer:
    """Reads q as k, which its probe text does not show."""
    fast = byte_level_tokenizer(toy_texts[:40])
    fast.backend_tokenizer.normalizer = normalizers.Replace("q", "k")
    return Tokenizer(fast, "lossy")


class TestRows:
    def test_both_forms_in_order_with_their_lines(self, file):
        first = file({"text": "né"}, b"", {"prompt": "2+2=", "completion": "4", "id": 7})
        second = file({"text": "last"}, name="more.jsonl")
        text, drill, last = load_documents([first, second])
        assert [text.name, drill.name, last.name] == [f"{first}:1", f"{first}:3", f"{second}:1"]
        assert text.segments == (Segment("text", "né".encode(), True),)
        assert drill.segments == (
            Segment("prompt", b"2+2=", False),
            Segment("completion", b"4", True),
        )
        assert (text.num_scored_bytes, drill.num_scored_bytes) == (3, 1)

    def test_line_separators_inside_a_text_are_text(self, file):
        path = file({"text": "a\u2028b\u0085c\r\nd"}, b'{"text": "x\xe2\x80\xa8y"}\r')
        assert [d.content.decode() for d in load_documents([path])] == [
            "a\u2028b\u0085c\r\nd",
            "x\u2028y",
        ]

    def test_relative_paths_start_at_the_current_folder(self, file, tmp_path, monkeypatch):
        file({"text": "a"})
        monkeypatch.chdir(tmp_path)
        assert load_documents(["train.jsonl"])[0].name == "train.jsonl:1"

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"{", "not a JSON object"),
            (b'["text"]', "expected a JSON object, found list"),
            ({}, 'expected the key "text", "prompt" and "completion", or "messages"; found noth'),
            ({"prompt": "a", "id": 1}, "found id, prompt"),
            ({"text": 3}, '"text" must be a string, found int'),
            ({"prompt": "a", "completion": None}, '"completion" must be a string, found NoneType'),
            ({"text": ""}, "nothing to learn from"),
            ({"prompt": "a", "completion": ""}, "nothing to learn from"),
            ({"text": "ab\ud83d"}, '"text" holds half a surrogate pair at 2'),
            (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13 of the line"),
            (b"[" * 100_000, "not a JSON object that can be read"),
            (b'{"text": ' + b"9" * 5000 + b"}", "not a JSON object that can be read"),
            ({"text": "a", "messages": []}, 'has both "text" and "messages"; expected one of them'),
        ],
    )
    def test_errors_name_file_and_line(self, file, line, message):
        path = file({"text": "good"}, b"  ", line, {"text": "good"})
        with pytest.raises(ConfigError) as caught:
            load_documents([path])
        assert str(caught.value).startswith(f"{path}:3: ")
        assert message in str(caught.value)

    def test_messages(self, file):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+2?", "name": None},
            {"role": "assistant", "content": "né"},
        ]
        path = file({"messages": messages, "prompt": "not read", "id": 7})
        [document] = load_documents([path])
        assert document.is_chat
        assert document.segments == (
            Segment("system", b"Be brief.", False),
            Segment("user", b"2+2?", False),
            Segment("assistant", "né".encode(), True),
            Segment("end_of_turn", b"\xff", True),
        )
        assert document.num_scored_bytes == 4

    @pytest.mark.parametrize(
        ("messages", "expected"),
        [
            ([], '"messages" must be a list of messages, found an empty list'),
            ({"role": "user"}, '"messages" must be a list of messages, found dict'),
            (["Hi"], "message 1: expected an object, found str"),
            ([("user", "Hi")], "the last message is of role user; expected assistant"),
            ([("tool", "Hi")], "message 1: unknown role 'tool'; expected system, user, assistant"),
            ([(["user"], "Hi")], "message 1: unknown role ['user']"),
            ([("user", "Hi"), ("assistant", "")], 'message 2: "content" is empty'),
            ([("user", 3)], 'message 1: "content" must be a string, found int'),
            ([("user", "a\ud83d")], 'message 1: "content" holds half a surrogate pair at 1'),
            ([{"role": "user", "content": None}], 'message 1: the key "content" is missing'),
            ([{"content": "Hi"}], 'message 1: the key "role" is missing'),
            (
                [{"role": "user", "content": "Hi", "tool_calls": []}],
                'message 1: key "tool_calls" is not read; expected "role" and "content"',
            ),
        ],
    )
    def test_errors_of_messages_name_file_line_and_message(self, file, messages, expected):
        if isinstance(messages, list):
            messages = [
                {"role": m[0], "content": m[1]} if isinstance(m, tuple) else m for m in messages
            ]
        path = file({"text": "good"}, {"messages": messages})
        with pytest.raises(ConfigError) as caught:
            load_documents([path])
        assert str(caught.value).startswith(f"{path}:2: {expected}")

    def test_missing_file(self, tmp_path):
        with pytest.raises(ConfigError, match=r"data file .*none.jsonl does not exist"):
            load_documents([str(tmp_path / "none.jsonl")])


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


class TestPrepare:
    def test_counts(self, tokenizers, lossy):
        drill = (Segment("prompt", b"long " * 30, False), Segment("completion", b"x", True))
        documents = [
            text_document("short", "Hi"),
            text_document("quiet", "a q here"),
            text_document("long", "word " * 30),
            text_document("metaspace", "▁"),
            Document("drill", drill),
        ]
        readers = [tokenizers["bytelevel"], tokenizers["sentencepiece"], lossy]
        prepared = prepare(documents, readers, max_length=16)
        assert [d.name for d in prepared.documents] == ["short", "long"]
        assert prepared.quarantined == {"bytelevel": 0, "sentencepiece": 1, "lossy": 1}
        assert (prepared.num_cut, prepared.num_unscored) == (1, 1)
        assert prepared.num_scored_bytes == sum(len(d.content) for d in prepared.documents)

    def test_what_is_cut_off_does_not_count_against_a_document(self, tokenizers, lossy):
        document = text_document("d", "word " * 30 + "q")
        [short] = prepare([document], [tokenizers["bytelevel"], lossy], 16).documents
        assert lossy.is_faithful(short)

    def test_the_student_can_be_the_one_that_cannot_read(self, tokenizers, lossy):
        documents = [text_document("d", "q " * 100), text_document("e", "fine")]
        prepared = prepare(documents, [lossy, tokenizers["bytelevel"]], 16)
        assert prepared.quarantined == {"lossy": 1, "bytelevel": 0}
        assert [d.name for d in prepared.documents] == ["e"]

    def test_nothing_left(self, tokenizers, lossy):
        with pytest.raises(ConfigError, match=r"none of 1 documents .*'lossy': {'norm.*': 1}"):
            prepare([text_document("d", "q")], [tokenizers["bytelevel"], lossy], 16)

    def test_lost_tokens_are_counted(self, tokenizers):
        """Tokens over the border of prompt and completion, in the documents that are kept."""
        straddles = Document(
            "d", (Segment("prompt", b"the val", False), Segment("completion", b"ue is", True))
        )
        readers = list(tokenizers.values())
        prepared = prepare([straddles, straddles, text_document("e", "▁")], readers, 16)
        expected = {
            reader.name: 2 * reader.encode([straddles])[0].num_straddling(straddles.scored)
            for reader in readers
        }
        assert prepared.straddling == expected
        assert sum(expected.values()) > 0

    def test_each_tokenizer_is_asked_once_a_pass(self, tokenizers, monkeypatch):
        readers, calls = list(tokenizers.values()), []
        original = Tokenizer.read
        monkeypatch.setattr(
            Tokenizer,
            "read",
            lambda self, documents: calls.append(self.name) or original(self, documents),
        )
        documents = [text_document(str(i), "a few words " * (i % 7)) for i in range(1, 300)]
        prepare(documents, readers, 12)
        assert Counter(calls)["sentencepiece"] == 1
        assert Counter(calls)["bytelevel"] <= 4


class TestOrder:
    @given(
        count=st.integers(1, 9),
        batch=st.integers(1, 20),
        seed=st.integers(0, 3),
    )
    def test_each_epoch_is_a_permutation(self, count, batch, seed):
        documents = [text_document(str(i), "x") for i in range(count)]
        steps = [documents_of_step(documents, s, batch, seed) for s in range(3 * count)]
        assert all(len(step) == batch for step in steps)
        names = [d.name for step in steps for d in step]
        for start in range(0, len(names) - count + 1, count):
            assert Counter(names[start : start + count]) == Counter(str(i) for i in range(count))

    def test_batch_size_does_not_change_the_order(self):
        documents = [text_document(str(i), "x") for i in range(7)]
        by_three = [documents_of_step(documents, s, 3, 5) for s in range(14)]
        by_six = [documents_of_step(documents, s, 6, 5) for s in range(7)]
        assert [d for s in by_three for d in s] == [d for s in by_six for d in s]

    def test_epochs_and_seeds_differ_and_calls_agree(self):
        documents = [text_document(str(i), "x") for i in range(50)]
        epochs = {
            tuple(d.name for d in documents_of_step(documents, step, 50, seed))
            for step in range(3)
            for seed in range(3)
        }
        assert len(epochs) == 9
        assert documents_of_step(documents, 8, 7, 1) == documents_of_step(documents, 8, 7, 1)
