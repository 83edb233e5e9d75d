"""LoRA: what is trained, what is saved, and that a checkpoint goes on and opens without peft."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from orchestrator.config import parse_run
from orchestrator.errors import ConfigError
from orchestrator.lora_check import check_lora
from orchestrator.student.adapters import LoraOptions, adapters_off, add_adapters, merged
from orchestrator.student.gradients import last_trained
from orchestrator.student.stages import embedding_parameters
from orchestrator.student.state import (
    load_weights_into,
    restore,
    restore_random_state,
    save_state,
)

TARGETS = {"llama": ("q_proj", "down_proj"), "gpt2": ("c_attn", "c_proj")}
IDS = torch.arange(12)[None]


def options_of(architecture: str) -> LoraOptions:
    return LoraOptions(rank=4, alpha=8, dropout=0.0, target_modules=TARGETS[architecture])


def adapted(language_model, architecture: str, *, trained: bool = False, moved: bool = True):
    """A model with adapters; ``moved`` gives them something to say."""
    model = language_model(architecture)
    add_adapters(model.model, options_of(architecture), train_embeddings=trained)
    for name, parameter in model.model.named_parameters():
        if moved and "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(params=TARGETS)
def architecture(request) -> str:
    return request.param


def test_it_starts_as_the_model_and_trains_adapters_alone(language_model, architecture):
    plain, model = language_model(architecture), adapted(language_model, architecture, moved=False)
    assert torch.equal(model.model(IDS).logits, plain.model(IDS).logits)
    trained = {name for name, p in model.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == set(
        TARGETS[architecture]
    )


def test_embeddings_are_trained_whole_where_they_are_new(language_model, architecture):
    model = adapted(language_model, architecture, trained=True).model
    assert all(parameter.requires_grad for parameter in embedding_parameters(model))
    assert all(".lora_" in n for n, p in model.named_parameters() if p in set(last_trained(model)))


def test_merged_weights_open_without_adapters(language_model, architecture, tmp_path: Path):
    model = adapted(language_model, architecture).model
    plain = language_model(architecture).model(IDS).logits
    expected = model(IDS).logits
    assert (expected - plain).abs().max() > 0.1
    model.save_pretrained(tmp_path, state_dict=merged(model, model.state_dict()))
    assert not list(tmp_path.glob("adapter*"))
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(loaded(IDS).logits, expected, atol=1e-4, rtol=0)


def test_adapters_off_is_the_original(language_model, architecture):
    model = adapted(language_model, architecture).model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    before, plain = model(IDS).logits, language_model(architecture).model(IDS).logits
    with adapters_off(model):
        assert torch.equal(model(IDS).logits, plain)
    assert torch.equal(model(IDS).logits, before)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained


def test_frozen_adapters_stay_frozen(language_model):
    model = adapted(language_model, "llama").model
    model.requires_grad_(requires_grad=False)
    with adapters_off(model):
        pass
    assert not any(p.requires_grad for p in model.parameters())


def test_absent_targets(language_model):
    wrong = replace(options_of("gpt2"), target_modules=("q_proj", "c_attn", "lm_head"))
    words = r"no linear layer q_proj, lm_head; expected some of: c_attn, c_fc, c_proj"
    with pytest.raises(ValueError, match=words):
        add_adapters(language_model("gpt2").model, wrong, train_embeddings=False)


def test_absent_targets_are_found_without_weights(language_model, tmp_path: Path):
    language_model("gpt2").model.config.save_pretrained(tmp_path)
    run = {
        "student": {"init": str(tmp_path), "lora": {"rank": 2, "target_modules": ["q_proj"]}},
        "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
        "output_dir": "x",
    }
    with pytest.raises(ConfigError, match=r"student\.lora\.target_modules: GPT2LMHeadModel has no"):
        check_lora(parse_run(run))
    run["student"]["lora"]["target_modules"] = ["c_attn"]
    check_lora(parse_run(run))


@pytest.fixture(scope="module")
def lab(distillation, language_model):
    def build():
        model = language_model("llama", seed=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            options = replace(options_of("llama"), dropout=0.2)
            add_adapters(model.model, options, train_embeddings=False)
        return model

    return replace(distillation(), build_student=build)


def test_it_learns_and_goes_on_bit_for_bit(lab, tmp_path: Path):
    def train(trainer, steps: int) -> list:
        rows = lab.documents, lab.signals, lab.num_scored_bytes
        return [trainer.step(*rows, measure_shares=True) for _ in range(steps)]

    torch.manual_seed(0)
    whole = lab.trainer(learning_rate=3e-3)
    first = train(whole, 2)
    save_state(whole.engine, 2, tmp_path / "state", 0)
    last = train(whole, 2)
    assert last[-1].loss < first[0].loss
    again = lab.trainer(learning_rate=3e-3)
    load_weights_into(again.engine.module, tmp_path / "state")
    restore(again.engine, tmp_path / "state")
    assert all(".lora_" in name for name in again.engine.state.num_updates())
    restore_random_state(tmp_path / "state", 0)
    found = train(again, 2)
    assert [r.loss for r in found] == [r.loss for r in last]
    assert [r.shares for r in found] == [r.shares for r in last]
    theirs = whole.engine.state_dict()
    assert all(torch.equal(v, theirs[n]) for n, v in again.engine.state_dict().items())
