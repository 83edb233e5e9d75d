"""The planned bytes of every method's signals are those that a teacher sends."""

import pytest
import torch

from losses.document import text_document
from losses.methods import method_class, method_names
from orchestrator.planning.signal_sizes import Speaker, bytes_per_token
from teachers.teacher import Teacher

SPEAKER = Speaker(512, 96, torch.float32, 4.0)

BY_HAND = {
    "alm": 12,
    "kl": 4 * 96 + 12,
    "hidden": 4 * 96 + 8,
    "dskd": 4 * 96 + 8,
    "h_kl": 6 * 511 + 16,
    "sedi": 6 * 100 + 24,
    "cdm": 6 * 100 + 20,
    "mined": 6 * 100 + 16,
    "uld": 2 * 511 + 12,
    "multilevel_ot": 4 * 50 + 8,
    "bld": 518 * 4,
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_by_hand(name):
    assert bytes_per_token(method_class(name)(), SPEAKER) == BY_HAND[name]


def test_bytes_grow_with_the_text_of_a_token():
    longer = Speaker(512, 96, torch.float32, 4.5)
    assert bytes_per_token(method_class("bld")(), longer) == 518 * 4.5


def test_half_precision_halves_hidden_states():
    half = Speaker(512, 96, torch.bfloat16, 4.0)
    assert bytes_per_token(method_class("kl")(), half) == 2 * 96 + 12


@pytest.mark.parametrize("name", method_names())
def test_as_a_teacher_sends_them(name, language_model, documents):
    model = language_model("llama", "bytelevel", seed=1)
    method = method_class(name)()
    text = " ".join(d.content.decode() for d in documents if not d.is_chat)[:400]
    document = text_document("long", text)
    [tokens] = model.encode([document])
    [[signal]] = Teacher(model, [method]).signals([document])
    hidden = model.model.config.hidden_size
    speaker = Speaker(
        len(model.tokenizer.vocabulary), hidden, torch.float32, len(document.content) / len(tokens)
    )
    planned = bytes_per_token(method, speaker) * len(tokens)
    assert planned == pytest.approx(signal.num_bytes, rel=0.05)
