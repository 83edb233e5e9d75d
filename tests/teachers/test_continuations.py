"""What a model says after other tokens: shared passes against plain ones."""

import logging

import numpy as np
import pytest
import torch

from losses.byte_distributions import Converter, convert
from losses.continuations import Continuation, Continuations
from losses.document import chat_document, text_document
from teachers.backends.continuations import (
    CachedContinuations,
    PlainContinuations,
    shares_passes,
)
from teachers.backends.transformers import LanguageModel

ARCHITECTURES = ["llama", "gpt2", "gemma2", "gemma3", "cohere", "granite", "phi"]
EAGER = [(name, "eager") for name in ARCHITECTURES]
SDPA = [(name, "sdpa") for name in ARCHITECTURES if name != "gemma2"]  # which has none
ASKED = [
    Continuation(0, (7,)),
    Continuation(9, (5, 6, 8)),
    Continuation(9, (4,)),
    Continuation(40, (11, 12)),
    Continuation(25, (3,)),
]


def alone(model: LanguageModel, ids: np.ndarray, one: Continuation) -> torch.Tensor:
    history = [*ids[: one.position + 1].tolist(), *one.ids]
    output = model.model.base_model(input_ids=torch.tensor([history]), use_cache=False)
    return output.last_hidden_state[0, -1]


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "attention"), [*SDPA, *EAGER])
def test_shared_passes_equal_plain_ones(language_model, documents, architecture, attention):
    model = language_model(architecture, attn_implementation=attention)
    assert shares_passes(model.model)
    found = model.predictions(documents[2:], continuations=True)
    for prediction in found:
        ask, ids = prediction.continuations, prediction.tokens.ids
        assert isinstance(ask, CachedContinuations)
        assert isinstance(ask, Continuations)
        asked = [one for one in ASKED if one.position < len(ids)]
        expected = torch.stack([alone(model, ids, one) for one in asked])
        assert torch.allclose(ask.hidden_after(asked), expected, atol=1e-4)
        plain = PlainContinuations(model.model, torch.from_numpy(ids), tokens_at_once=90)
        assert torch.allclose(plain.hidden_after(asked), expected, atol=1e-4)


@torch.no_grad()
def test_predictions_stay_as_they_were(language_model, documents):
    model = language_model("gemma3")
    with_cache = model.predictions(documents, continuations=True)
    for kept, plain in zip(with_cache, model.predictions(documents), strict=True):
        assert torch.allclose(kept.hidden, plain.hidden, atol=1e-5)
        assert plain.continuations is None


@torch.no_grad()
def test_half_precision(language_model, documents):
    model = language_model("llama")
    half = LanguageModel(model.model.bfloat16(), model.tokenizer, model.head)
    try:
        [prediction] = half.predictions(documents[4:], continuations=True)
        ask, ids = prediction.continuations, prediction.tokens.ids
        assert isinstance(ask, CachedContinuations)
        expected = torch.stack([alone(half, ids, one) for one in ASKED]).float()
        assert (ask.hidden_after(ASKED).float() - expected).abs().mean() < 0.05
    finally:
        model.model.float()


@torch.no_grad()
def test_many_continuations_are_cut_into_passes(language_model, documents, monkeypatch):
    monkeypatch.setattr("teachers.backends.continuations.TOKENS_AT_ONCE", 3)
    model = language_model("llama")
    [prediction] = model.predictions(documents[4:], continuations=True)
    found = prediction.continuations.hidden_after(ASKED)
    expected = torch.stack([alone(model, prediction.tokens.ids, one) for one in ASKED])
    assert torch.allclose(found, expected, atol=1e-4)


@torch.no_grad()
def test_packed_documents_are_asked_in_plain_passes(language_model, documents):
    model = language_model("llama")
    packed = LanguageModel(model.model, model.tokenizer, model.head, packing=True)
    for prediction in packed.predictions(documents, continuations=True):
        assert isinstance(prediction.continuations, PlainContinuations)
        one = Continuation(0, (7,))
        expected = alone(model, prediction.tokens.ids, one)
        assert torch.allclose(prediction.continuations.hidden_after([one])[0], expected, atol=1e-4)


@torch.no_grad()
def test_a_model_that_ignores_the_mask_is_asked_in_plain_passes(
    language_model, documents, monkeypatch, caplog
):
    def everything(model, row, length):
        return torch.zeros(1, 1, len(row.ids), length + len(row.ids))

    monkeypatch.setattr("teachers.backends.continuations._masks", everything)
    model = language_model("llama")
    with caplog.at_level(logging.WARNING):
        [prediction] = model.predictions(documents[:1], continuations=True)
    assert "off by" in caplog.text
    assert isinstance(prediction.continuations, PlainContinuations)


@torch.no_grad()
def test_layers_with_other_masks_are_asked_in_plain_passes(language_model, monkeypatch, caplog):
    """Llama 4's chunks are longer than the probe, which would not tell them from full attention."""
    model = language_model("llama").model
    kinds = ["full_attention", "chunked_attention"]
    monkeypatch.setattr(model.config, "layer_types", kinds, raising=False)
    with caplog.at_level(logging.WARNING):
        assert not shares_passes(model)
    assert "layers of the kind chunked_attention" in caplog.text


@torch.no_grad()
def test_a_model_that_looks_up_what_is_not_there(language_model, monkeypatch, caplog):
    def missing(model, row, length):
        return {}["linear_attention"]

    monkeypatch.setattr("teachers.backends.continuations._masks", missing)
    with caplog.at_level(logging.WARNING):
        assert not shares_passes(language_model("llama").model)
    assert "no shared pass" in caplog.text


@torch.no_grad()
@pytest.mark.parametrize("name", ["branches", "beam"])
def test_converters_do_not_care_how_the_model_is_asked(language_model, name):
    model = language_model("gemma3")
    document = text_document("d", "Objects are data.")
    [prediction] = model.predictions([document], continuations=True)
    shared = convert(prediction, document, Converter(name, epsilon=0.001, beam=3))
    prediction.continuations = PlainContinuations(
        model.model, torch.from_numpy(prediction.tokens.ids)
    )
    plain = convert(prediction, document, Converter(name, epsilon=0.001, beam=3))
    assert len(shared.positions) == len(document.content)
    assert np.allclose(shared.logprobs, plain.logprobs, atol=0.02)
    path = convert(prediction, document, Converter("on_path"))
    assert not np.allclose(shared.logprobs, path.logprobs, atol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("tokenizer", ["bytelevel", "sentencepiece"])
def test_chats_and_dummy_spaces(language_model, tokenizer):
    """Every scored byte has a row; the end of a turn is read from the end symbol."""
    model = language_model("llama", tokenizer)
    for document in (
        chat_document("c", [("user", "Hi there"), ("assistant", "Hello you.")]),
        text_document("t", "The quick brown fox."),
    ):
        [prediction] = model.predictions([document], continuations=True)
        scored = np.flatnonzero(document.scored)
        for name in ("one_path", "on_path", "branches"):
            signal = convert(prediction, document, Converter(name))
            covered = prediction.tokens.byte_ends[prediction.scored.numpy()]
            first = scored[scored >= 0]
            assert set(signal.positions.tolist()) <= set(first.tolist())
            assert len(signal.positions) >= len(first) - (covered.min(initial=0) < 0)
