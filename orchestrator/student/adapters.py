"""LoRA by peft: low-rank adapters inside the student's linear layers, all else frozen.

The model keeps its class and its modules' names; an adapted layer holds its weight as
``base_layer`` and the adapter as ``lora_A`` and ``lora_B``. A checkpoint's model is saved merged,
so it opens with plain ``from_pretrained``; the adapters alone, in full precision, are in its state.

Source: Hu et al. 2021, arXiv:2106.09685; as in ALM's published runs, A starts as
``N(0, 1 / rank²)`` and B as zeros.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from orchestrator.student.stages import embedding_parameters
from teachers.source import ModelSource

ADAPTER = "default"
"""What peft calls an adapter that got no name."""


@dataclass(frozen=True)
class LoraOptions:
    """Which layers get an adapter of which rank; its product is scaled by ``alpha / rank``."""

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]


def add_adapters(model: PreTrainedModel, options: LoraOptions, *, train_embeddings: bool) -> None:
    """Freeze the model and put adapters into it, in place.

    Args:
        model: with the layers that it keeps and the embeddings that it is trained with.
        options: the adapters.
        train_embeddings: leave the rows of the input and the output trained, whole.

    Raises:
        ValueError: a target is no linear layer of the model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if absent := absent_targets(model, options.target_modules):
        raise ValueError(how_absent(model, absent))
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.target_modules),
        init_lora_weights="gaussian",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    inject_adapter_in_model(config, model)
    for parameter in embedding_parameters(model):
        parameter.requires_grad_(train_embeddings)


def linear_layers(model: PreTrainedModel) -> list[str]:
    """The names that an adapter may be asked for: linear layers, but not the head."""
    head = model.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    return sorted(found)


def absent_targets(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Those of the names that no linear layer has."""
    known = linear_layers(model)
    return [name for name in names if name not in known]


def how_absent(model: PreTrainedModel, absent: Sequence[str]) -> str:
    """What to say of targets that the model lacks."""
    return (
        f"{type(model).__name__} has no linear layer {', '.join(absent)}; expected some of: "
        f"{', '.join(linear_layers(model))}"
    )


def model_without_weights(source: ModelSource) -> PreTrainedModel:
    """The model's modules on the meta device: names and shapes, no numbers."""
    config = AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def merged(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of a model without adapters, the adapters' products added.

    Args:
        model: the student; only its layers' names and scales are read.
        weights: its whole weights by name, as an engine gathers them; without adapters they stay.
    """
    found = dict(weights)
    if not any(".lora_A." in name for name in found):
        return found
    for name, layer in adapted_layers(model):
        own = {key: found.pop(key) for key in list(found) if key.startswith(f"{name}.")}
        for key, value in own.items():
            if key.startswith(f"{name}.base_layer."):
                found[key.replace(".base_layer.", ".")] = value
        down, up = (own[f"{name}.{part}.{ADAPTER}.weight"].float() for part in ("lora_A", "lora_B"))
        product = up @ down * layer.scaling[ADAPTER]
        weight = found[f"{name}.weight"]
        product = product.T if layer.fan_in_fan_out else product
        found[f"{name}.weight"] = (weight.float() + product).to(weight.dtype)
    return found


def adapted_layers(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """The layers that hold an adapter, by name; none without LoRA."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """The model as if it had no adapters; which parameters are trained stays as it was."""
    layers = [layer for _, layer in adapted_layers(model)]
    trained = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
            layer.requires_grad_(requires_grad=False)
        for parameter in trained:
            parameter.requires_grad_(requires_grad=True)
