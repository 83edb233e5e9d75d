"""Prompts as each member reads them."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.ensembling.prompts import read_prompt
from teachers.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def chatting(fast_of: Callable[..., Any], all_merges: list[tuple[str, str]]) -> Tokenizer:
    fast = fast_of(all_merges)
    fast.chat_template = TEMPLATE
    return Tokenizer(fast, "chatting")


def test_a_text_after_the_start_token(chatting: Tokenizer):
    found = read_prompt(chatting, "hello wo")
    assert found.ids[0] == chatting.start_id
    assert list(found.ids[1:]) == chatting.fast("hello wo", add_special_tokens=False)["input_ids"]
    assert found.num_text == len(found.ids) - 1
    assert read_prompt(chatting, "").ids == (chatting.start_id,)


def test_a_chat_by_the_members_own_template(chatting: Tokenizer):
    found = read_prompt(chatting, CHAT)
    rows = chatting.fast.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert list(found.ids) == rows
    assert found.num_text == 0


def test_a_plain_chat_opens_the_turn(small_tokenizers: dict[str, Tokenizer]):
    tokenizer = small_tokenizers["bytes"]
    found = read_prompt(tokenizer, CHAT)
    content = b"".join(tokenizer.vocabulary.token_bytes[i] or b"" for i in found.ids[1:])
    assert found.ids[0] == tokenizer.start_id
    assert content == b"User:\nhello\n\nAssistant:\n"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"role": "tool", "content": "x"}], "its chat template refuses the prompt"),
        ([{"role": "user", "content": "a<|im_end|>"}], r"holds the special token <\|im_end\|>"),
    ],
)
def test_refusals(chatting: Tokenizer, prompt: Any, message: str):
    with pytest.raises(ValueError, match=message):
        read_prompt(chatting, prompt)


def test_nothing_to_read(fast_of: Callable[..., Any]):
    fast = fast_of([], bos_token=None, eos_token=None)
    fast.backend_tokenizer.post_processor = None
    tokenizer = Tokenizer(fast, "bare", None)
    tokenizer.start_id = None
    with pytest.raises(ValueError, match="the prompt is empty and the tokenizer has no start"):
        read_prompt(tokenizer, "")
