"""A student cut out of a larger model computes exactly with the layers that stay."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from orchestrator.student.layers import keep_layers, kept_layers, layer_list

ARCHITECTURES = ["llama", "gpt2", "gemma2", "gemma3", "cohere", "granite", "phi"]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
DEPTH = {"num_hidden_layers": 5}


class Skip(nn.Module):
    """A layer that does nothing, in place of one that was dropped."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", "full_attention")

    def forward(self, hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return hidden


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestKeepLayers:
    def test_equals_the_model_with_skipped_layers(self, tiny_model, architecture):
        whole, cut = (tiny_model(architecture, 64, **DEPTH) for _ in range(2))
        before = logits(whole)
        layers = layer_list(whole)
        layers[1], layers[4] = Skip(layers[1]), Skip(layers[4])
        keep_layers(cut, [0, 2, 3])
        torch.testing.assert_close(logits(cut), logits(whole), atol=1e-6, rtol=0)
        assert (logits(cut) - before).abs().max() > 1e-3

    def test_saves_and_loads(self, tiny_model, architecture, tmp_path):
        cut = tiny_model(architecture, 64, **DEPTH)
        keep_layers(cut, [0, 2, 3])
        cut.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        assert len(layer_list(loaded)) == loaded.config.num_hidden_layers == 3
        torch.testing.assert_close(logits(loaded), logits(cut), atol=1e-6, rtol=0)

    def test_generates_with_a_cache(self, tiny_model, architecture):
        cut = tiny_model(architecture, 64, **DEPTH)
        keep_layers(cut, [1, 2, 4])
        options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
        with torch.no_grad():
            cached, plain = (
                cut.generate(IDS, attention_mask=torch.ones_like(IDS), use_cache=use, **options)
                for use in (True, False)
            )
        assert torch.equal(cached, plain)
        assert cached.shape[1] == IDS.shape[1] + 5

    def test_all_layers_change_nothing(self, tiny_model, architecture):
        model = tiny_model(architecture, 64)
        before = layer_list(model)
        keep_layers(model, [0, 1])
        assert layer_list(model) is before


def test_each_layer_keeps_its_kind_of_attention(tiny_model, tmp_path):
    kinds = [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "full", "sliding")]
    options = {**DEPTH, "layer_types": kinds, "sliding_window": 3}
    whole, cut = (tiny_model("gemma3", 64, **options) for _ in range(2))
    layers = layer_list(whole)
    for dropped in (0, 3):
        layers[dropped] = Skip(layers[dropped])
    keep_layers(cut, [1, 2, 4])
    assert cut.config.layer_types == [kinds[1], kinds[2], kinds[4]]
    torch.testing.assert_close(logits(cut), logits(whole), atol=1e-6, rtol=0)
    cut.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(loaded), logits(cut), atol=1e-6, rtol=0)


def test_kept_layers():
    assert kept_layers(4, None, None) == [0, 1, 2, 3]
    assert kept_layers(4, [3, 0, 0], None) == [0, 3]
    assert kept_layers(4, None, [0, 3]) == [1, 2]


@pytest.mark.parametrize(("keep", "drop"), [([0, 4], None), (None, [4]), ([-1], None)])
def test_layers_outside_are_refused(keep, drop):
    with pytest.raises(ValueError, match=r"no layer (4|-1): the model has layers 0 to 3"):
        kept_layers(4, keep, drop)


def test_nothing_left_is_refused():
    with pytest.raises(ValueError, match="no layer is left"):
        kept_layers(2, None, [0, 1])


def test_a_model_without_layers_is_refused(tiny_model):
    model = tiny_model("llama", 64)
    model.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match="LlamaForCausalLM has no list of 7 layers"):
        layer_list(model)
