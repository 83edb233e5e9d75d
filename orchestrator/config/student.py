"""The part ``student`` of the run file: the model that is trained."""

from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import Field, field_validator, model_validator

from orchestrator.config.section import (
    Device,
    Dtype,
    Expected,
    Items,
    ModelOptions,
    ModelSource,
    Resources,
    Section,
    check_device,
)

LayerIndex = Annotated[int, Field(ge=0)]


class StudentConfig(Section):
    """The model that is trained."""

    init: ModelSource
    """Model that the student starts from: a folder, a hub id or asset:NAME."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null is the hub's default branch."""
    tokenizer: str | None = None
    """The tokenizer of ``init`` by default. Another one is not in this release."""
    template: Literal["plain"] | None = None
    """How chats are written; null is the tokenizer's own template, or plain if it has none."""
    keep_layers: Annotated[Items[LayerIndex], MinLen(1)] | None = None
    """Indices of the layers of ``init`` that are kept, rising; null keeps all."""
    drop_layers: Annotated[Items[LayerIndex], MinLen(1)] | None = None
    """Indices of the layers of ``init`` that are dropped, rising; not beside ``keep_layers``."""
    dtype: Dtype = "float32"
    """Number format of weights and arithmetic; float32 is surest, bfloat16 quicker."""
    device: Device = "auto"
    """Where the student runs; auto is CUDA where there is one, else the CPU."""
    num_ranks: int = Field(1, ge=1)
    """Processes that train in data parallel, each with its share of the batch."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each rank; null is a fair share of the machine."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    packing: bool = False
    """Several documents share a row of a batch, without seeing each other: less padding."""
    resources: Resources = Resources()
    """What Ray sets aside for each rank."""
    model_options: Annotated[ModelOptions, Expected("a mapping")] = Field(default_factory=dict)
    """Passed to ``from_pretrained`` as it is, such as ``attn_implementation``."""

    @field_validator("keep_layers", "drop_layers")
    @classmethod
    def _rising(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and list(layers) != sorted(set(layers)):
            raise ValueError(
                f"{list(layers)} is not rising; expected each index once, in order: "
                f"{sorted(set(layers))}"
            )
        return layers

    @model_validator(mode="after")
    def _consistent(self) -> "StudentConfig":
        if self.keep_layers is not None and self.drop_layers is not None:
            raise ValueError("keep_layers and drop_layers are both set; expected at most one")
        if self.tokenizer not in (None, self.init):
            raise ValueError(
                f'tokenizer "{self.tokenizer}" differs from init "{self.init}"; a student with '
                "another tokenizer is not in this release; leave tokenizer out"
            )
        check_device(self.device, self.resources)
        return self
