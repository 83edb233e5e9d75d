"""The part ``student`` of the run file: the model that is trained."""

from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.config.embeddings import EmbeddingsConfig
from orchestrator.config.lora import LoraConfig
from orchestrator.config.resources import Resources, check_device, check_rank, without_replicas
from orchestrator.config.section import (
    Device,
    Dtype,
    Expected,
    Items,
    ModelOptions,
    ModelSource,
    Section,
)
from orchestrator.student.embeddings.options import BYTES

TOKENIZER_RULE = '"bytes", a folder, a hub id or asset:NAME'

LayerIndex = Annotated[int, Field(ge=0)]


class StudentConfig(Section):
    """The model that is trained."""

    init: ModelSource
    """Model that the student starts from: a folder, a hub id or asset:NAME."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null is the hub's default branch."""
    tokenizer: Annotated[str, MinLen(1), Expected(TOKENIZER_RULE)] | None = None
    """The tokenizer of ``init`` by default; ``bytes`` is 256 bytes and the special tokens of
    ``init``; else a folder, a hub id or asset:NAME. See docs/transfer.md."""
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    """Where the embeddings of another tokenizer come from."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside the weights; null trains the weights themselves."""
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
    resources: Annotated[Resources, BeforeValidator(without_replicas)] = Resources()
    """What Ray sets aside for each rank."""
    model_options: Annotated[ModelOptions, Expected("a mapping")] = Field(default_factory=dict)
    """Passed to ``from_pretrained`` as it is, such as ``attn_implementation``."""

    @property
    def transfers(self) -> bool:
        """True if the student gets another tokenizer than its ``init`` has."""
        return self.tokenizer not in (None, self.init)

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
        if not self.transfers and self.embeddings != EmbeddingsConfig():
            raise ValueError(
                "embeddings has no effect: the tokenizer is that of init; leave it out, or set "
                "tokenizer"
            )
        if self.transfers:
            self.embeddings.options.check_bytes(self.tokenizer == BYTES)
        check_device(self.device, self.resources)
        check_rank(self.resources)
        return self
