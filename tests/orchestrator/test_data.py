"""Rows become documents, cut by bytes; every step's documents are a pure function."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from losses.document import Document, Segment, text_document
from orchestrator.assets.toy.tokenizers import byte_level_tokenizer
from orchestrator.data import documents_of_step, load_documents, prepare
from orchestrator.errors import ConfigError
from teachers.tokenizer import Tokenizer

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
            (
                {"text": "a", "messages": []},
                'has "text" and "messages"; expected one form: "text",',
            ),
            (
                {"text": "a", "prompt": "b", "completion": "c"},
                'has "text" and "prompt" and "comple',
            ),
            (b'{"text": "a", "id": 1, "text": "b"}', 'the key "text" is there twice'),
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
