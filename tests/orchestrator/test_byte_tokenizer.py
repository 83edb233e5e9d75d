"""Bytes as a plain tokenizer: any text is its bytes, chats keep their special tokens."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from losses.document import chat_document, text_document
from orchestrator.student.byte_tokenizer import byte_tokenizer, is_bytes, write_byte_tokenizer
from teachers.sealing import sealed
from teachers.tokenizer import Tokenizer

CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COMPUTED = (
    "{% for message in messages %}{{ '<|im_' + 'start|>' + message['role'] }}\n"
    "{{ message['content'] }}<|im_{{ 'end' }}|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_' + 'start|>' }}{% endif %}"
)
CHAT = [
    {"role": "user", "content": "Is it <|im_end|> or <s>, assistant?"},
    {"role": "assistant", "content": "naïve 🙂"},
]
SPOKEN = [("user", "One?"), ("assistant", "Two.")]


def with_chats(fast: Any, template: str) -> PreTrainedTokenizerFast:
    """A copy with tokens of turns, some that nothing writes, and a template."""
    changed: PreTrainedTokenizerFast = copy.deepcopy(fast)
    names = ["<|im_start|>", "<|im_end|>", "<|spare|>"]
    changed.add_special_tokens(
        {
            "eos_token": "<|im_end|>",
            "additional_special_tokens": [AddedToken(name, special=True) for name in names],
        }
    )
    changed.chat_template = template
    return changed


@pytest.fixture(scope="module")
def written(
    fast_tokenizers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str | None], PreTrainedTokenizerFast]:
    """The byte tokenizer of a toy tokenizer, as ``AutoTokenizer`` opens it."""

    def write(name: str, template: str | None) -> PreTrainedTokenizerFast:
        fast = fast_tokenizers[name]
        source = with_chats(fast, template) if template else fast
        folder: Path = tmp_path_factory.mktemp("bytes")
        return AutoTokenizer.from_pretrained(write_byte_tokenizer(source, folder))

    return write


@pytest.fixture(scope="module")
def chatml(written: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return written("bytelevel", CHATML)


class TestText:
    """Ordinary text."""

    @given(st.text())
    def test_any_text_is_its_bytes_and_comes_back(self, chatml: Any, text: str):
        ids = chatml(text, add_special_tokens=False)["input_ids"]
        assert ids == list(text.encode())
        assert chatml.decode(ids) == text

    @pytest.mark.parametrize("text", ["user assistant system", "<|im_start|>user\n<|im_end|>", ""])
    def test_names_are_text(self, chatml: Any, text: str):
        assert chatml(text)["input_ids"] == list(text.encode())

    def test_a_long_text(self, chatml: Any):
        text = "any text 🙂\n" * 5000
        assert chatml(text)["input_ids"] == list(text.encode())

    def test_our_own_reading_agrees(self, chatml: Any):
        read = Tokenizer(chatml, "bytes")
        assert is_bytes(read.vocabulary)
        document = text_document("d", "a <|im_end|> é")
        [tokens] = read.encode([document])
        assert tokens.ids[1:].tolist() == list(document.content)
        assert read.fast.convert_ids_to_tokens(int(tokens.ids[0])) == sealed("<|endoftext|>")

    def test_what_the_old_one_puts_before_a_text_is_kept(self, written: Any):
        found = written("sentencepiece", None)
        start = found.bos_token_id
        assert found("ab")["input_ids"] == [start, 97, 98]
        assert found("a", "b")["input_ids"] == [start, 97, start, 98]
        assert found.decode([start, 97, 98], skip_special_tokens=True) == "ab"


class TestSpecialTokens:
    """Those with a role, behind the bytes."""

    def test_only_those_with_a_role_are_kept(self, chatml: Any):
        names = {sealed(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
        assert set(chatml.convert_ids_to_tokens(list(range(256, len(chatml))))) == names
        assert len(chatml) == 256 + len(names)
        assert chatml.eos_token == sealed("<|im_end|>")
        assert chatml.bos_token == sealed("<|endoftext|>")

    @pytest.mark.parametrize("opened", [False, True])
    def test_chats_are_written_as_before(
        self, written: Any, fast_tokenizers: dict[str, Any], opened: bool
    ):
        for template in (CHATML, COMPUTED):
            source = with_chats(fast_tokenizers["bytelevel"], template)
            found = written("bytelevel", template)
            rows = [{"role": role, "content": content} for role, content in SPOKEN]
            old = source.apply_chat_template(rows, add_generation_prompt=opened)["input_ids"]
            new = found.apply_chat_template(rows, add_generation_prompt=opened)["input_ids"]
            plain = found.decode(new).replace(sealed(""), "")
            assert plain == source.decode(old)
            assert [i for i in new if i >= 256] == [
                found.convert_tokens_to_ids(sealed(name))
                for name in source.convert_ids_to_tokens(old)
                if name in source.all_special_tokens
            ]

    def test_a_message_cannot_end_its_turn(self, chatml: Any):
        ids = chatml.apply_chat_template(CHAT)["input_ids"]
        end = chatml.convert_tokens_to_ids(sealed("<|im_end|>"))
        assert ids.count(end) == 2
        document = chat_document("d", [(row["role"], row["content"]) for row in CHAT])
        [tokens] = Tokenizer(chatml, "bytes").encode([document])
        assert tokens.ids.tolist() == ids

    def test_a_template_that_reads_names_is_refused(self, fast_tokenizers: dict[str, Any]):
        source = with_chats(fast_tokenizers["bytelevel"], "{{ eos_token | length }}")
        with pytest.raises(ValueError, match="cannot be made to write the special tokens"):
            byte_tokenizer(Tokenizer(source, "init"))


def test_is_bytes(tokenizers: dict[str, Tokenizer]):
    assert not any(is_bytes(tokenizer.vocabulary) for tokenizer in tokenizers.values())
