"""Which special token closes an assistant's turn, by the tokenizer's own chat template."""

from copy import deepcopy

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from losses.alignment.roles import role_partners
from losses.document import chat_document
from orchestrator.assets import resolve
from teachers.chat_tokens import end_of_turn_id
from teachers.tokenizer import Tokenizer

TALK = chat_document("talk", [("user", "Hi"), ("assistant", "Hello.")])


def lined(start: str, stop: str, before: str = "") -> str:
    """A template with a header and an end for each message."""
    message = f"{start}{{{{ m.role }}}}\n{{{{ m.content }}}}{stop}\n"
    return f"{before}{{% for m in messages %}}{message}{{% endfor %}}"


GEMMA = lined("<start_of_turn>", "<end_of_turn>", "{{ bos_token }}")
LLAMA_3 = lined("<|start_header_id|>", "<|eot_id|>", "{{ bos_token }}")
CHATML = lined("<|im_start|>", "<|im_end|>")
CLOSED_BY_EOS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TWO_AT_THE_END = lined("", "<|im_end|><|end|>")
NO_TOKEN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
REFUSES = "{{ raise_exception('no chats today') }}"

SHAPES = {
    "gemma": (["<start_of_turn>", "<end_of_turn>"], GEMMA, None, "<end_of_turn>"),
    "llama 3 base": (["<|eot_id|>"], LLAMA_3, None, "<|eot_id|>"),
    "llama 3 chat": (["<|eot_id|>"], LLAMA_3, "<|eot_id|>", "<|eot_id|>"),
    "qwen base": (["<|im_start|>", "<|im_end|>"], CHATML, None, "<|im_end|>"),
    "qwen chat": (["<|im_start|>", "<|im_end|>"], CHATML, "<|im_end|>", "<|im_end|>"),
    "the end itself": ([], CLOSED_BY_EOS, None, "eos"),
    "two at the end": (["<|im_end|>", "<|end|>"], TWO_AT_THE_END, None, "<|im_end|>"),
    "no token": (["<|im_end|>"], NO_TOKEN, None, None),
    "refused": (["<|im_end|>"], REFUSES, None, None),
    "no template": (["<|im_end|>"], None, None, None),
}
"""Special tokens, template, the eos if it is another than the toy's, what closes a turn."""


def build(plain: PreTrainedTokenizerFast, shape: str, choice=None) -> Tokenizer:
    tokens, template, eos, _ = SHAPES[shape]
    fast = deepcopy(plain)
    fast.add_special_tokens({"additional_special_tokens": tokens})
    if eos is not None:
        fast.eos_token = eos
    fast.chat_template = template
    return Tokenizer(fast, shape, template=choice)


@pytest.mark.parametrize(
    ("family", "shape"),
    [*(("bytelevel", shape) for shape in SHAPES), ("sentencepiece", "gemma")],
)
def test_the_role(fast_tokenizers, family, shape):
    tokenizer = build(fast_tokenizers[family], shape)
    roles, fast, expected = tokenizer.vocabulary.roles, tokenizer.fast, SHAPES[shape][3]
    found = [index for index, role in roles.items() if role == "end_of_turn"]
    if expected is None:
        assert (found, roles[fast.eos_token_id]) == ([], "end")
        return
    token = fast.eos_token if expected == "eos" else expected
    assert found == [fast.convert_tokens_to_ids(token)] == [end_of_turn_id(tokenizer)]
    is_eos = token == fast.eos_token
    assert ("end" in roles.values()) is not is_eos
    # the realised end of a turn is that token
    [view] = tokenizer.read([TALK])
    assert int(view.ids[view.byte_ends.argmax()]) == found[0]


def test_plain_chats_end_texts(fast_tokenizers):
    """Where chats are written plainly the end of a text closes them, and no other token."""
    tokenizer = build(fast_tokenizers["bytelevel"], "gemma", "plain")
    assert "end_of_turn" not in tokenizer.vocabulary.roles.values()
    own = build(fast_tokenizers["bytelevel"], "gemma")
    assert tokenizer.vocabulary.fingerprint != own.vocabulary.fingerprint
    assert tokenizer.vocabulary.ids_fingerprint == own.vocabulary.ids_fingerprint


def test_a_call_with_truncation_changes_nothing(fast_tokenizers):
    fast = deepcopy(fast_tokenizers["bytelevel"])
    fast.backend_tokenizer.enable_truncation(1)
    fast.backend_tokenizer.encode_special_tokens = True
    assert "end_of_turn" in build(fast, "gemma").vocabulary.roles.values()


@pytest.mark.parametrize(("student", "teacher"), [("qwen chat", "gemma"), ("gemma", "qwen chat")])
def test_two_models_meet_at_the_end_of_a_turn(fast_tokenizers, student, teacher):
    ours = build(fast_tokenizers["bytelevel"], student)
    theirs = build(fast_tokenizers["sentencepiece"], teacher)
    partners = role_partners(ours.vocabulary, theirs.vocabulary)
    assert partners[end_of_turn_id(ours)] == end_of_turn_id(theirs)


REAL = {
    "smollm2-135m-instruct": "<|im_end|>",
    "gemma-3-270m": None,  # a base model without a template
    "tokenizers/gemma-3": "<end_of_turn>",
    "tokenizers/llama-3-chat": "<|eot_id|>",
    "tokenizers/qwen-3": "<|im_end|>",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), REAL.items())
def test_real_ones(name, expected):
    try:
        folder = resolve(f"asset:{name}")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    tokenizer = Tokenizer(AutoTokenizer.from_pretrained(folder), name)
    found = [i for i, role in tokenizer.vocabulary.roles.items() if role == "end_of_turn"]
    assert tokenizer.fast.convert_ids_to_tokens(found) == ([] if expected is None else [expected])
