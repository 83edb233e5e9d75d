"""Models without weights: every parameter's shape and number format, on the meta device."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.sources import student_source, teacher_source
from orchestrator.student.adapters import LoraOptions, add_adapters
from orchestrator.student.layers import keep_layers, kept_layers
from teachers.source import ModelSource


@dataclass(frozen=True)
class Sizes:
    """Numbers of a decoder that costs are counted from.

    Args:
        parameters: all weights, tied ones once.
        trained: those that get gradients.
        embedding: rows of the input that are no matrix product (0 where they are the head too).
        layers: transformer layers.
        hidden: width of the hidden states.
        heads: of the queries, times their width.
        keys: of the keys (as of the values), times their width.
        vocabulary: rows of the head.
        element: bytes of a weight.
    """

    parameters: int
    trained: int
    embedding: int
    layers: int
    hidden: int
    heads: int
    keys: int
    vocabulary: int
    element: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.parameters * self.element

    def head_flops(self, tokens: float) -> float:
        """Floating-point operations from hidden states to logits."""
        return 2 * tokens * self.hidden * self.vocabulary

    def forward_flops(self, tokens: float, length: float) -> float:
        """Floating-point operations of a forward pass: 2 a weight, and attention.

        Args:
            tokens: how many are read.
            length: tokens of a sequence; each sees half of it on the mean, which makes 2 for the
                scores and 2 for the values 2 in all.
        """
        attention = 2 * self.layers * self.heads * length
        return tokens * (2 * (self.parameters - self.embedding) + attention)

    def training_flops(self, tokens: float, length: float, *, recomputed: bool) -> float:
        """Forward and backward pass; what is frozen needs no gradient of its own.

        Args:
            tokens: how many are read.
            length: tokens of a sequence.
            recomputed: the layers, not the head, run forward once more.
        """
        forward = self.forward_flops(tokens, length)
        again = forward - self.head_flops(tokens) if recomputed else 0.0
        return forward * (2 + self.trained / self.parameters) + again


def without_weights(source: ModelSource) -> PreTrainedModel:
    """The model's modules in the number format and with the attention that it is loaded with."""
    config = AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    attention = source.options.get("attn_implementation")
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            dtype=source.torch_dtype,
            attn_implementation=attention,
            trust_remote_code=source.trust_remote_code,
        )
    model.requires_grad_(requires_grad=True)
    return model


def teacher_skeleton(teacher: TeacherConfig, config: RunConfig) -> PreTrainedModel:
    """A teacher, frozen."""
    model = without_weights(teacher_source(teacher, config.student))
    model.requires_grad_(requires_grad=False)
    model.eval()
    return model


def student_skeleton(config: RunConfig, num_ids: int) -> PreTrainedModel:
    """The student as it is trained: its layers, its rows, its adapters, its checkpointing.

    Args:
        config: the run.
        num_ids: ids of the tokenizer that it is trained with.
    """
    student = config.student
    model = without_weights(student_source(student))
    depth = model.config.get_text_config().num_hidden_layers
    keep_layers(model, kept_layers(depth, student.keep_layers, student.drop_layers))
    if student.transfers:
        with torch.device("meta"):
            model.resize_token_embeddings(num_ids, mean_resizing=False)
    if student.lora is not None:
        lora = student.lora
        options = LoraOptions(lora.rank, lora.alpha, lora.dropout, lora.target_modules)
        with torch.device("meta"):
            add_adapters(model, options, train_embeddings=student.transfers)
    if student.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Count a model's weights."""
    config = model.config.get_text_config()
    parameters = list(model.parameters())
    rows: Any = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is rows
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Sizes(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        embedding=0 if tied else rows.numel(),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads * width,
        keys=keys * width,
        vocabulary=config.vocab_size,
        element=parameters[0].element_size(),
    )


def stored_bytes(source: ModelSource) -> int:
    """Bytes of a folder's weights as they lie on disk, from the headers of its safetensors files.

    0 for a hub id and for a folder that holds none.
    """
    folder = Path(source.path)
    return sum(size for path in folder.glob("*.safetensors") for size in _tensor_sizes(path))


def _tensor_sizes(path: Path) -> Iterator[int]:
    """Of each tensor; only the header is read."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for entry in header.values():
        start, end = entry["data_offsets"]
        yield end - start
