"""Which prompts documents give."""

import pytest

from losses.document import Document, Segment, chat_document, text_document
from orchestrator.errors import ConfigError
from orchestrator.exposure_bias.prompts import beginning, choose_prompts

TEXTS = [text_document(f"d{index}", f"Number {index} is a longer text") for index in range(8)]


class TestBeginning:
    @pytest.mark.parametrize(
        ("content", "num_bytes", "expected"),
        [
            (b"one two three", 7, b"one two"),
            (b"one two three", 8, b"one two"),
            (b"one two three", 6, b"one"),
            (b"one  two", 4, b"one"),  # the prompt never ends with a space
            (b"one two", 7, None),
            (b"longword", 3, b"lon"),
            ("né".encode(), 2, b"n"),
            ("日本".encode(), 2, None),  # not even one character
        ],
    )
    def test_by_hand(self, content: bytes, num_bytes: int, expected: bytes | None):
        assert beginning(content, num_bytes) == expected


class TestChoosePrompts:
    def test_a_seeded_choice(self, tokenizers):
        read = [tokenizers["bytelevel"], tokenizers["sentencepiece"]]
        first = choose_prompts(TEXTS, read, 3, 10, seed=0)
        assert first == choose_prompts(TEXTS, read, 3, 10, seed=0)
        assert len(set(first)) == 3
        assert set(first) <= {f"Number {index}" for index in range(8)}
        assert first != choose_prompts(TEXTS, read, 3, 10, seed=1)
        assert len(choose_prompts(TEXTS, read, 99, 10, seed=0)) == 8

    def test_rows_with_a_prompt_give_it_and_chats_give_none(self, tokenizers):
        drill = (Segment("prompt", b"2 + 2 =", False), Segment("completion", b" 4", True))
        chat = chat_document("c", [("user", "Hi, who are you?"), ("assistant", "A long answer")])
        documents = [Document("d", drill), chat, TEXTS[0]]
        found = choose_prompts(documents, [tokenizers["bytelevel"]], 9, 10, seed=0)
        assert sorted(found) == ["2 + 2 =", "Number 0"]

    def test_unreadable_and_short_ones_are_left_out(self, tokenizers):
        short = [text_document("s", "Hi")] * 3
        with pytest.raises(ConfigError, match="1 of 4 documents give a prompt"):
            choose_prompts([*short, TEXTS[0]], [tokenizers["bytelevel"]], 9, 10, seed=0)
