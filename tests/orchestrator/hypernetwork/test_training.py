"""Training a hypernetwork: where it starts, what moves, and that it goes on where it stood."""

import json
import math

import numpy as np
import pytest
import torch

from losses.alignment.vocabulary import Vocabulary
from orchestrator.config.shipped import shipped_hypernetworks
from orchestrator.errors import ConfigError, TrainingDiverged
from orchestrator.hypernetwork.batch import Batch
from orchestrator.hypernetwork.config import load_hypernetwork_config
from orchestrator.hypernetwork.frozen import embedding_scale
from orchestrator.hypernetwork.pieces import Speller
from orchestrator.hypernetwork.sampling import Substrings, words_of
from orchestrator.hypernetwork.train import new_network, train_hypernetwork
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from orchestrator.hypernetwork.trainer import HypernetworkTrainer
from orchestrator.student.adamw import trained_parameters

ALM = {"methods": [{"name": "alm", "temperature": 5.0}], "ce_weight": 0.0}


@pytest.fixture
def trainer(start, config, documents):
    def build(architecture="llama", **changed):
        frozen, _ = start(architecture)
        chosen = config(**changed)
        return HypernetworkTrainer(frozen, new_network(chosen, frozen), chosen, documents)

    return build


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gemma3", "cohere", "granite"])
def test_its_own_rows_give_the_models_own_predictions(start, documents, architecture):
    frozen, _ = start(architecture)
    own = frozen.own
    expected = own.predictions(documents)
    rows = frozen.rows.float()
    vocabulary = own.tokenizer.vocabulary
    found = frozen.predictions(documents, own.encode(documents), vocabulary, rows)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(
            ours.logprob_of_scored(), theirs.logprob_of_scored(), rtol=1e-4, atol=1e-4
        )


def test_embeddings_that_do_more_are_refused(tiny_model):
    model = tiny_model("llama", 300)
    assert embedding_scale(model) == 1.0
    hook = model.get_input_embeddings().register_forward_hook(lambda *found: found[2] + 1)
    with pytest.raises(ValueError, match="its input embedding does more than look up a row"):
        embedding_scale(model)
    hook.remove()


@pytest.mark.parametrize("residual", ["first", "mean"])
def test_first_loss_is_that_of_the_residual(trainer, residual):
    """Worked out from the pieces' rows alone, without the network."""
    found = trainer(network={"residual": residual})
    frozen, batch = found.frozen, found.batch(0)
    contents = batch.vocabulary.token_bytes
    rows = torch.zeros(len(contents), *frozen.rows.shape[1:])
    speller = Speller(found.source)
    for index, content in enumerate(contents):
        if content is None:
            rows[index] = frozen.rows[batch.special[index]]
            continue
        (pieces,) = speller.spell([content])
        of_pieces = frozen.rows[list(pieces)]
        rows[index] = of_pieces[0] if residual == "first" else of_pieces.mean(0)
    predictions = frozen.predictions(batch.documents, batch.tokens, batch.vocabulary, rows)
    nats = sum(-float(p.logprob_of_scored().sum()) for p in predictions)
    assert found.step(0).loss == pytest.approx(nats / batch.num_scored_bytes, rel=1e-5)


@pytest.mark.parametrize("losses", [{}, ALM])
def test_gradients_reach_the_network_only(trainer, losses):
    found = trainer(train=losses)
    model = found.frozen.own.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = {name: p.detach().clone() for name, p in found.network.named_parameters()}
    for step in range(2):  # in the first one the last linear map hides the others
        found.step(step)
    assert trained_parameters(model) == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    moved = [n for n, p in found.network.named_parameters() if not torch.equal(p, start[n])]
    assert {n for n in start if n not in moved} == {"byte_rows"}  # this model has every byte


def test_micro_batches_do_not_change_the_gradient(trainer):
    norms = [trainer(train={"micro_batch": size}).step(0).grad_norm for size in (1, 4)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_likelihoods_agree_where_the_vocabulary_is_the_models_own(trainer, documents):
    """With the model's own tokenizer nothing is left to learn: ALM is 0, and its gradient."""
    found = trainer(train=ALM)
    own, rng = found.source, np.random.default_rng(0)
    batch = Batch.of(documents, own, own, None, rng)
    leaf = batch.rows(found.network, found.frozen.rows, found.speller).detach().requires_grad_()
    losses = found._backward(batch, leaf)
    assert losses[0] > 0
    assert losses[1].abs() < 1e-6
    assert leaf.grad.abs().max() < 1e-4


def test_the_teacher_is_asked_once_for_each_document(trainer, documents, monkeypatch):
    found = trainer(train=ALM)
    asked, real = [], found.objective._teacher.signals
    monkeypatch.setattr(
        found.objective._teacher, "signals", lambda new: asked.extend(new) or real(new)
    )
    for step in range(4):
        found.step(step)
    assert sorted(d.name for d in asked) == sorted(d.name for d in documents)


@pytest.mark.parametrize("losses", [{}, ALM])
def test_loss_falls(trainer, losses):
    found = trainer(train=losses | {"learning_rate": 1e-2, "global_batch": 5})
    values = [found.step(step).loss for step in range(12)]
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


def test_a_step_is_a_function_of_its_number_and_the_seed(trainer):
    once, again, other = trainer(), trainer(), trainer(train={"seed": 1})
    assert once.batch(3).vocabulary == again.batch(3).vocabulary
    assert once.batch(3).vocabulary != once.batch(2).vocabulary
    assert once.batch(3).vocabulary != other.batch(3).vocabulary


def test_documents_are_counted_in_runs_that_hold_the_steps_own(start, config, documents):
    frozen, _ = start()
    chosen = config(sampling={"num_documents": 2}, train={"global_batch": 1})
    found = HypernetworkTrainer(frozen, new_network(chosen, frozen), chosen, documents)
    runs = [found._substrings(step) for step in range(4)]
    assert runs[0] is runs[1]
    assert runs[1] is not runs[2]
    for step in range(4):
        (document,) = found.batch(step).documents
        own = Substrings.of(words_of([document.content.decode()]), max_bytes=16, stride=4)
        assert {*own.names} <= {*found._substrings(step).names}


def test_divergence_is_told(trainer, monkeypatch):
    found = trainer()
    monkeypatch.setattr(found, "_backward", lambda batch, rows: torch.tensor([math.nan]))
    monkeypatch.setattr(torch.Tensor, "backward", lambda self, gradient=None: None)
    with pytest.raises(TrainingDiverged, match="step 0: the loss is nan"):
        found.step(0)


class TestRun:
    def test_writes_the_network_metrics_and_summary(self, config, text_file):
        chosen = config(data={"held_out": [str(text_file)], "held_out_limit": 5})
        summary = train_hypernetwork(chosen)
        folder = chosen.output_dir
        assert json.loads((folder / "summary.json").read_text())["num_steps"] == 4
        lines = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in lines] == [0, 1, 2, 3]
        assert lines[0]["loss"] == summary.first_loss == lines[0]["ce_loss"]
        assert TrainedHypernetwork.load(folder / "final").num_steps == 4
        found = summary.held_out
        assert found.residual != found.hypernetwork
        assert found.own_tokenizer > 0
        with pytest.raises(ConfigError, match="is not empty"):
            train_hypernetwork(chosen)

    def test_resumed_is_as_if_never_stopped(self, config, tmp_path):
        whole = config(train={"max_steps": 5})
        train_hypernetwork(whole)
        expected = (whole.output_dir / "final" / "hypernetwork.safetensors").read_bytes()
        whole.output_dir.rename(tmp_path / "whole")
        first = config(train={"max_steps": 3, "save_steps": 1, "save_total_limit": 1})
        train_hypernetwork(first)
        assert sorted(p.name for p in first.output_dir.glob("checkpoint-*")) == ["checkpoint-3"]
        train_hypernetwork(config(train={"max_steps": 5, "save_steps": 1}), resume=True)
        found = (whole.output_dir / "final" / "hypernetwork.safetensors").read_bytes()
        assert found == expected

    def test_another_run_is_not_resumed(self, config):
        with pytest.raises(ConfigError, match="holds no run to resume"):
            train_hypernetwork(config(), resume=True)
        train_hypernetwork(config(train={"max_steps": 1}))
        with pytest.raises(ConfigError, match=r"network\.alpha: 1\.0 -> 2\.0"):
            train_hypernetwork(config(network={"alpha": 2.0}), resume=True)


class TestConfig:
    @pytest.mark.parametrize("name", shipped_hypernetworks())
    def test_shipped(self, name):
        assert load_hypernetwork_config(name).model.init

    @pytest.mark.parametrize(
        ("section", "changed", "message"),
        [
            (
                "train",
                {"methods": [{"name": "kl"}]},
                '"kl" cannot follow a vocabulary',
            ),
            ("train", {"ce_weight": 0.0}, "expected a loss to train on"),
            ("model", {"keep_layers": [0], "drop_layers": [1]}, "are both set"),
            ("network", {"layers": 3}, 'unknown key, did you mean "num_layers"'),
            ("sampling", {"vocab_size": 100}, "at least 512"),
        ],
    )
    def test_what_is_wrong_is_refused(self, config, section, changed, message):
        with pytest.raises(ConfigError, match=message):
            config(**{section: changed})

    def test_a_text_in_too_many_tokens_is_refused(self, start, documents):
        frozen, _ = start(max_position_embeddings=16)
        vocabulary = Vocabulary(tuple(bytes([byte]) for byte in range(256)))
        rows = frozen.rows[:256].float()
        tokens = frozen.own.tokenizer.encode(documents)
        with pytest.raises(ValueError, match=r"reads at most 16; lower data\.max_length"):
            frozen.predictions(documents, tokens, vocabulary, rows)
