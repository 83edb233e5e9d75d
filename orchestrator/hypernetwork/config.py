"""The file of a hypernetwork's training: its schema and how it is read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import AfterValidator, Field, Strict, field_validator, model_validator

from orchestrator.config.load import parse, read_mapping
from orchestrator.config.method import MethodConfig
from orchestrator.config.overrides import apply_overrides
from orchestrator.config.section import (
    Device,
    Dtype,
    Expected,
    Items,
    ModelOptions,
    ModelSource,
    Section,
    expand_home,
)
from orchestrator.config.shipped import find_hypernetwork
from orchestrator.config.training import DataFile, Decay, LearningRate

METHODS = ("alm",)
"""Methods whose signal serves any vocabulary and whose loss builds nothing for one vocabulary."""


class BaseModelConfig(Section):
    """The frozen model whose embeddings are predicted."""

    init: ModelSource
    """The model: a folder, a hub id or asset:NAME."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null is the hub's default branch."""
    keep_layers: Annotated[Items[Annotated[int, Field(ge=0)]], MinLen(1)] | None = None
    """Indices of the layers that are kept while training; null keeps all. Rows predicted with
    fewer layers fit the whole model too, less well."""
    drop_layers: Annotated[Items[Annotated[int, Field(ge=0)]], MinLen(1)] | None = None
    """Indices of the layers that are dropped while training; not beside ``keep_layers``."""
    dtype: Dtype = "float32"
    """Number format of the frozen model; the hypernetwork is always float32."""
    device: Device = "auto"
    """Where both run; auto is CUDA where there is one, else the CPU."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; null leaves torch's own number."""
    model_options: Annotated[ModelOptions, Expected("a mapping")] = Field(default_factory=dict)
    """Passed to ``from_pretrained`` as it is, such as ``attn_implementation``."""

    @model_validator(mode="after")
    def _one_choice_of_layers(self) -> "BaseModelConfig":
        if self.keep_layers is not None and self.drop_layers is not None:
            raise ValueError("keep_layers and drop_layers are both set; expected at most one")
        return self


class NetworkConfig(Section):
    """The hypernetwork: from the rows of a token's pieces to the token's own."""

    residual: Literal["first", "mean"] = "first"
    """What an untrained network gives: the row of the token's first piece (as published), or the
    mean over all pieces, which is what ``fvt`` gives."""
    attention: bool = True
    """Read all pieces; false transforms the residual alone."""
    num_layers: int = Field(3, ge=1)
    """Transformer layers."""
    num_heads: int = Field(16, ge=1)
    """Attention heads; they divide the width."""
    width: int | None = Field(None, ge=1)
    """Width of the layers, after a linear map from the rows; null is the width of the rows (twice
    that where input and output rows are not tied), without one."""
    max_pieces: int = Field(8, ge=1)
    """Pieces of a token that the layers read, the first ones."""
    keep_own: bool = False
    """Tokens that the model has itself keep its own rows, as with ``fvt``; the published network
    predicts all rows."""
    alpha: float = Field(1.0, gt=0)
    """The network's output is added to the residual times alpha / sqrt(hidden size)."""


class SamplingConfig(Section):
    """How each step's vocabulary is drawn from the training text."""

    vocab_size: int = Field(32768, ge=512)
    """Tokens of a sampled vocabulary at most, the bytes and runs of white space included."""
    num_documents: int = Field(2048, ge=1)
    """Documents whose substrings are counted: a run of them, in the order of training, that holds
    those of the step."""
    max_bytes: int = Field(16, ge=2)
    """Longest token in bytes."""
    stride: int = Field(4, ge=1)
    """Substrings begin at every so many characters of a word; 1 counts all of them."""
    noise_median: float = Field(1.0e-5, ge=0)
    """Each vocabulary's noise on the substrings' shares is normal, with a standard deviation that
    is log-normal around this; 0 is no noise."""
    noise_sigma: float = Field(4.0, ge=0)
    """Standard deviation of the logarithm of the noise's own."""
    num_negatives: int | None = Field(None, ge=0)
    """Tokens beyond those of the batch that are embedded and stand in the softmax, drawn anew each
    step; null is the whole vocabulary."""


class HypernetworkDataConfig(Section):
    """The text. Relative paths start at the current folder."""

    train: Annotated[Items[DataFile], MinLen(1)]
    """Documents that vocabularies are drawn from and losses are taken on."""
    held_out: Items[DataFile] = ()
    """Documents of the comparison before and after, in a vocabulary that was not trained on."""
    train_limit: int | None = Field(None, ge=1)
    """Documents taken from each file of ``train``, the first ones; null is all."""
    held_out_limit: int | None = Field(None, ge=1)
    """Documents taken from each file of ``held_out``, the first ones; null is all."""
    max_length: int = Field(128, ge=2)
    """Longest document in the model's own tokens; longer ones are cut."""


class HypernetworkTrainConfig(Section):
    """The optimisation of the hypernetwork alone."""

    ce_weight: float = Field(1.0, ge=0)
    """Factor of cross-entropy on the text in the sampled tokens."""
    methods: Items[MethodConfig] = ()
    """Further losses against the same model with its own tokenizer: [{name: alm, ...}]."""
    max_steps: int = Field(1000, ge=1)
    """Optimiser steps, each with a vocabulary of its own."""
    global_batch: int = Field(8, ge=1)
    """Documents in one step."""
    micro_batch: int = Field(8, ge=1)
    """Documents in one forward and backward pass of the frozen model, at most."""
    learning_rate: LearningRate = 1.0e-4
    """Peak learning rate of AdamW."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Course of the learning rate after the warm-up; linear and cosine end at 0."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    betas: Annotated[tuple[Decay, Decay], Strict(False)] = (0.9, 0.95)
    """Decay of AdamW's running means of the gradient and of its square."""
    max_grad_norm: float = Field(1.0, ge=0)
    """The gradient is scaled down to this norm; 0 switches clipping off."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of vocabularies, documents and the network's start."""
    save_steps: int = Field(0, ge=0)
    """Steps between two checkpoints; 0 writes none but ``final``."""
    save_total_limit: int | None = Field(None, ge=1)
    """Checkpoints that are kept, the oldest deleted first; null keeps all."""

    @field_validator("methods")
    @classmethod
    def _serve_any_vocabulary(cls, methods: tuple[MethodConfig, ...]) -> tuple[MethodConfig, ...]:
        for entry in methods:
            if entry.name not in METHODS:
                raise ValueError(
                    f'"{entry.name}" cannot follow a vocabulary that changes each step; expected '
                    f"{', '.join(METHODS)}"
                )
        return methods

    @model_validator(mode="after")
    def _has_a_loss(self) -> "HypernetworkTrainConfig":
        if not self.ce_weight and not self.methods:
            raise ValueError("ce_weight is 0 and methods is empty; expected a loss to train on")
        return self


class HypernetworkConfig(Section):
    """Everything that the training of a hypernetwork is made of."""

    model: BaseModelConfig
    """The frozen model."""
    network: NetworkConfig = NetworkConfig()
    """The hypernetwork."""
    sampling: SamplingConfig = SamplingConfig()
    """The vocabularies."""
    data: HypernetworkDataConfig
    """The text."""
    train: HypernetworkTrainConfig = HypernetworkTrainConfig()
    """The optimisation."""
    output_dir: Annotated[Path, Strict(False), AfterValidator(expand_home)]
    """Folder of checkpoints, metrics and summary; relative paths start at the current folder."""


def load_hypernetwork_config(path: str | Path, overrides: Iterable[str] = ()) -> HypernetworkConfig:
    """Read a hypernetwork's file, one's own or a shipped one, with ``key.sub=value`` overrides.

    Raises:
        ConfigError: something is wrong; the text lists every problem, one a line.
    """
    file = find_hypernetwork(path)
    data: dict[str, Any] = apply_overrides(read_mapping(file, HypernetworkConfig), overrides)
    return parse(HypernetworkConfig, data, str(file))
