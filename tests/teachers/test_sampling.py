"""Sampled texts: the model's own distribution and nothing else, the same for the same seed."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from losses.document import text_document
from teachers.sampling import Sampling, continuations, written

PROMPTS = ["The quick brown", "Hi", "A much longer prompt than the others are, so"]


def draw(model, prompts=PROMPTS, **options) -> list[bytes]:
    return continuations(model, prompts, Sampling(**({"num_bytes": 12} | options)))


@pytest.mark.parametrize("tokenizer", ["bytelevel", "sentencepiece"])
def test_seed(language_model, tokenizer: str):
    model = language_model(tokenizer=tokenizer)
    before = torch.random.get_rng_state()
    first = draw(model)
    assert first == draw(model)
    assert first != draw(model, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_generation_settings_of_the_model_take_no_part(language_model):
    model = language_model()
    expected = draw(model)
    own = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=5.0, max_new_tokens=2)
    model.model.generation_config = own
    assert draw(model) == expected
    assert model.model.generation_config is own


def test_frequencies_are_the_models_probabilities(language_model):
    """The first token of many texts, with prompts of two lengths in a batch."""
    model = language_model(initializer_range=0.2)
    for temperature in (1.0, 0.5):
        count = 600
        texts = draw(
            model,
            ["Hi", "The quick"] * count,
            num_bytes=1,
            temperature=temperature,
            batch_size=300,
        )
        [prediction] = model.predictions([text_document("d", "The quick.")])
        row = model.head.logits(prediction.hidden)[-2] / temperature
        expected: dict[bytes | None, float] = {}
        names = model.tokenizer.vocabulary.token_bytes
        for content, p in zip(names, row.softmax(-1).tolist(), strict=True):
            expected[content or b""] = expected.get(content or b"", 0.0) + p
        likely = sorted(expected, key=lambda name: -expected[name])[:5]
        for name in likely:
            p, found = expected[name], texts[1::2].count(name) / count
            assert abs(found - p) < 4.5 * (p * (1 - p) / count) ** 0.5


def test_padding_changes_nothing(language_model):
    """Nearly greedy, so that draws do not depend on the batch."""
    model = language_model()
    together = draw(model, temperature=0.01)
    assert together == [draw(model, [prompt], temperature=0.01)[0] for prompt in PROMPTS]
    assert len(set(together)) == 3


def test_only_tokens_are_drawn(language_model):
    """Padded rows of the head would win every draw if they could; an id among them has no bytes."""
    model = language_model(padded_rows=32)
    with torch.no_grad():
        row = 100 * model.model.lm_head.weight[5]
        model.model.lm_head.weight[-32:] = row
        model.model.lm_head.weight[-1] = -row
    assert any(draw(model))


def test_length(language_model):
    model = language_model()
    texts = draw(model, PROMPTS * 4, num_bytes=30)
    longest = max(len(content or b"") for content in model.tokenizer.vocabulary.token_bytes)
    assert max(map(len, texts)) < 30 + longest
    assert np.mean([len(text) >= 30 for text in texts]) > 0.5


def test_what_was_written(language_model):
    vocabulary = language_model().tokenizer.vocabulary
    [a, b], [end] = vocabulary.ids_of(b"a") + vocabulary.ids_of(b"b"), list(vocabulary.roles)
    assert written(vocabulary, [a, b, end, a], 10) == b"ab"
    assert written(vocabulary, [a, b, a], 2) == b"ab"
    assert written(vocabulary, [end], 2) == b""


def test_no_room(language_model):
    model = language_model(max_position_embeddings=8)
    with pytest.raises(ValueError, match="leaves no room to go on"):
        draw(model, ["zqzqzqz"])
