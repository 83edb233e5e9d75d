"""Vocabularies drawn from text: reproducible, complete, and as the options say."""

import math
from collections import Counter

import numpy as np
import pytest

from losses.document import chat_document, text_document
from orchestrator.hypernetwork.config import SamplingConfig
from orchestrator.hypernetwork.sampling import Substrings, TokenizerSampler, draw_pieces, words_of

SIZE = {"vocab_size": 700, "num_documents": 100}


@pytest.fixture(scope="module")
def texts(toy_texts):
    return [text_document(f"t{i}", text) for i, text in enumerate(toy_texts[:60])]


@pytest.fixture(scope="module")
def sample(tokenizers, texts):
    def build(seed=0, source="bytelevel", **options):
        sampler = TokenizerSampler(SamplingConfig(**{**SIZE, **options}), tokenizers[source])
        return sampler.sample(sampler.substrings(texts), np.random.default_rng(seed))

    return build


def test_same_seed_same_tokenizer(sample):
    assert sample(3).cutting == sample(3).cutting
    assert sample(3).cutting != sample(4).cutting


@pytest.mark.parametrize("source", ["bytelevel", "sentencepiece"])
def test_every_byte_and_every_text_can_be_written(sample, documents, source):
    found = sample(source=source)
    vocabulary = found.vocabulary
    assert vocabulary.missing_bytes == ()
    assert len([b for b in vocabulary.token_bytes if b]) <= 700
    for document, tokens in zip(documents, found.encode(documents), strict=True):
        parts = [
            found.vocabulary.token_bytes[i] for i in tokens.ids if i not in found.vocabulary.roles
        ]
        assert b"".join(parts) == document.content


def test_special_tokens_start_and_roles_are_the_models(sample, tokenizers):
    for name, source in tokenizers.items():
        found = sample(source=name)
        assert sorted(found.vocabulary.roles.values()) == sorted(source.vocabulary.roles.values())
        literal = source.fast.convert_ids_to_tokens(source.start_id)
        assert found.fast.convert_ids_to_tokens(found.start_id) == literal
        chat = chat_document("c", [("user", "Hi"), ("assistant", "Hello there")])
        assert found.is_faithful(chat)


def test_words_are_read_in_fewer_tokens_than_bytes(sample, texts):
    tokens = sample(noise_median=0.0).encode(texts)
    assert sum(map(len, tokens)) < 0.5 * sum(d.num_scored_bytes for d in texts)


def test_without_noise_the_best_substrings_win_in_order():
    words = Counter({"Ġthe": 10, "Ġcat": 3, "Ġzz": 1})
    substrings = Substrings.of(words, max_bytes=4, stride=4)
    options = SamplingConfig(vocab_size=512, max_bytes=4, noise_median=0.0)
    pieces = draw_pieces(substrings, options, np.random.default_rng(0))
    total = 10 * (1 + 2 + 3 + 4) + 3 * (1 + 2 + 3 + 4) + 1 * (1 + 2 + 3)
    free = pieces[256 + 9 * 3 :]
    assert [name for name, _ in free[:4]] == ["Ġthe", "Ġth", "Ġt", "Ġcat"]
    assert free[0][1] == pytest.approx(math.log(40 / total))
    assert dict(pieces)["A"] == pytest.approx(math.log(2 / total))  # as "Ġz"
    assert dict(pieces)["ĠĠ"] == 0.0


def test_substrings_begin_at_characters():
    found = Substrings.of(words_of(["éa"]), max_bytes=3, stride=1)
    assert set(found.names) == {"Ã©", "Ã©a"}


@pytest.mark.parametrize(
    "option",
    [
        {"vocab_size": 600},
        {"max_bytes": 4},
        {"stride": 1},
        {"noise_median": 1e-2},
        {"noise_sigma": 0.0},
    ],
    ids=str,
)
def test_every_option_changes_the_tokenizer(sample, option):
    assert sample(**option).vocabulary.fingerprint != sample().vocabulary.fingerprint
