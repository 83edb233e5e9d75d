"""Rows of a whole vocabulary: the same as in training, the model's own where nothing is learned."""

import numpy as np
import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.hypernetwork.batch import Batch
from orchestrator.hypernetwork.config import SamplingConfig
from orchestrator.hypernetwork.pieces import Speller
from orchestrator.hypernetwork.rows import predict_rows, rows_of, source_rows
from orchestrator.hypernetwork.sampling import TokenizerSampler
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from teachers.inside import encode_inside


def trained(frozen, network, seed=5):
    """The network with a last map that is not zero, as training leaves it."""
    with torch.no_grad():
        network.writes.weight.normal_(generator=torch.Generator().manual_seed(seed))
    fingerprint = frozen.own.tokenizer.vocabulary.fingerprint
    return TrainedHypernetwork(network, "tiny", fingerprint, num_steps=7)


def text_ids(vocabulary):
    return [i for i, content in enumerate(vocabulary.token_bytes) if content]


@pytest.mark.parametrize(("architecture", "stacked"), [("llama", 2), ("gpt2", 1), ("gemma3", 1)])
def test_source_rows_are_stacked_where_they_are_not_tied(start, architecture, stacked):
    frozen, _ = start(architecture)
    model = frozen.own.model
    assert frozen.rows.shape == (len(frozen.own.tokenizer.vocabulary), stacked, 32)
    assert torch.equal(frozen.rows[:, 0], model.get_input_embeddings().weight)
    assert torch.equal(frozen.rows[:, -1], model.get_output_embeddings().weight)


def test_an_output_bias_is_refused(tiny_model):
    with pytest.raises(ValueError, match="PhiForCausalLM adds a bias to its output"):
        source_rows(tiny_model("phi", 600), 512)


def test_grouping_by_length_changes_nothing(start):
    frozen, network = start()
    trained(frozen, network)
    pieces = [(3,), (4, 5, 6), (7,), (8, 9), (10, 11, 12), tuple(range(20, 60)), (1,)]
    found = rows_of(network, frozen.rows, pieces)
    alone = torch.cat([rows_of(network, frozen.rows, [ids]) for ids in pieces])
    torch.testing.assert_close(found, alone)


def test_rows_of_bytes_that_the_model_lacks_are_trained(start):
    frozen, network = start()
    size = len(frozen.rows)
    found = rows_of(network, frozen.rows, [(size + 65,), (3, size + 255)])
    assert torch.equal(found[0], network.byte_rows[65])
    found.sum().backward()
    assert network.byte_rows.grad[65].abs().sum() > 0


def test_tokens_of_the_model_may_keep_their_rows(start):
    frozen, network = start(network={"keep_own": True})
    trained(frozen, network)
    size = len(frozen.rows)
    pieces = [(3,), (4, 5), (size + 7,), (9,)]
    found = rows_of(network, frozen.rows, pieces)
    assert torch.equal(found[[0, 3]], frozen.rows[[3, 9]])
    _, other = start()
    other.load_state_dict(network.state_dict())
    predicted = rows_of(other, frozen.rows, pieces)
    torch.testing.assert_close(found[1:3], predicted[1:3])
    assert not torch.allclose(found[0], predicted[0])


@pytest.mark.parametrize("source", ["bytelevel", "sentencepiece"])
def test_untrained_rows_are_fvt(start, tokenizers, source):
    """With the mean residual: equal bytes copied, other text the mean of its pieces."""
    frozen, network = start("llama", source, network={"residual": "mean"})
    own = tokenizers[source]
    target = tokenizers["sentencepiece" if source == "bytelevel" else "bytelevel"].vocabulary
    fingerprint = own.vocabulary.fingerprint
    untrained = TrainedHypernetwork(network, "tiny", fingerprint, num_steps=0)
    rows = predict_rows(untrained, frozen.rows, own, target)
    for index in text_ids(target):
        try:
            text = target.token_bytes[index].decode()
        except UnicodeDecodeError:
            continue
        (pieces,) = encode_inside(own, [text])
        torch.testing.assert_close(rows[index], frozen.rows[pieces].mean(0))
    mean = frozen.rows.mean(0)
    special = next(iter(target.roles))
    torch.testing.assert_close(rows[special], mean)


def test_applied_rows_are_those_of_training(start, tokenizers, documents):
    frozen, network = start()
    done = trained(frozen, network)
    own, options = tokenizers["bytelevel"], SamplingConfig(vocab_size=700)
    sampler, rng = TokenizerSampler(options, own), np.random.default_rng(0)
    other = sampler.sample(sampler.substrings(documents), rng)
    whole = predict_rows(done, frozen.rows, own, other.vocabulary)
    batch = Batch.of(documents, other, own, num_negatives=50, rng=rng)
    rows = batch.rows(network, frozen.rows, Speller(own))
    views = other.encode(documents)
    for here, there in zip(batch.tokens, views, strict=True):
        text = np.isin(there.ids, text_ids(other.vocabulary))
        expected = whole[torch.from_numpy(there.ids[text])]
        torch.testing.assert_close(rows[torch.from_numpy(here.ids[text])], expected)


def test_a_batch_holds_its_tokens_and_so_many_others(start, tokenizers, documents):
    frozen, network = start()
    own = tokenizers["bytelevel"]
    sizes = []
    for num_negatives in (0, 30, None):
        rng = np.random.default_rng(0)
        batch = Batch.of(documents, own, own, num_negatives, rng)
        sizes.append(len(batch.vocabulary))
        for tokens, view in zip(batch.tokens, own.encode(documents), strict=True):
            named = [batch.vocabulary.token_bytes[index] for index in tokens.ids]
            assert named == [own.vocabulary.token_bytes[index] for index in view.ids]
            assert tokens.byte_ends.tolist() == view.byte_ends.tolist()
        rows = batch.rows(network, frozen.rows, Speller(own))
        for here, there in batch.special.items():
            assert torch.equal(rows[here], frozen.rows[there])
    assert sizes[1] == sizes[0] + 30
    assert sizes[2] == len(own.vocabulary)


class TestFolder:
    def test_what_is_loaded_predicts_the_same(self, start, tokenizers, tmp_path):
        frozen, network = start(network={"width": 24, "residual": "mean"})
        done = trained(frozen, network)
        done.save(tmp_path)
        loaded = TrainedHypernetwork.load(tmp_path)
        assert (loaded.model, loaded.num_steps) == ("tiny", 7)
        assert loaded.network.options == network.options
        own, other = tokenizers["bytelevel"], tokenizers["sentencepiece"].vocabulary
        expected = predict_rows(done, frozen.rows, own, other)
        assert torch.equal(predict_rows(tmp_path, frozen.rows, own, other), expected)

    def test_another_model_is_refused(self, start, tokenizers):
        frozen, network = start()
        done = trained(frozen, network)
        own, other = tokenizers["bytelevel"], tokenizers["sentencepiece"]
        with pytest.raises(ValueError, match="trained for the tokenizer of tiny"):
            predict_rows(done, frozen.rows, other, own.vocabulary)
        with pytest.raises(ValueError, match=r"shape \(2, 32\) .* the model has \(1, 32\)"):
            predict_rows(done, frozen.rows[:, :1], own, other.vocabulary)

    def test_a_folder_without_one_or_a_damaged_one_is_refused(self, start, tmp_path):
        with pytest.raises(ConfigError, match=r"holds no hypernetwork \(hypernetwork.json is miss"):
            TrainedHypernetwork.load(tmp_path)
        trained(*start()).save(tmp_path)
        (tmp_path / "hypernetwork.safetensors").write_bytes(b"\x00" * 20)
        with pytest.raises(ConfigError, match="the hypernetwork cannot be read"):
            TrainedHypernetwork.load(tmp_path)
