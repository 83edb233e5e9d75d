"""The part ``student.lora`` of the run file: train low-rank adapters instead of all weights."""

from typing import Annotated

from annotated_types import MinLen
from pydantic import Field, field_validator

from orchestrator.config.section import Items, Section

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj")


class LoraConfig(Section):
    """Low-rank adapters (LoRA) on some linear layers; all other layers stay as they are.

    Embeddings are trained in full where the tokenizer is new, and stay as they are otherwise.
    """

    rank: int = Field(64, ge=1)
    """Rank of each adapter."""
    alpha: int = Field(64, ge=1)
    """An adapter's product is multiplied by ``alpha / rank``."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    target_modules: Annotated[Items[Annotated[str, MinLen(1)]], MinLen(1)] = TARGET_MODULES
    """Names of the linear layers that get an adapter, as the model's code calls them."""

    @field_validator("target_modules")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"{list(names)} repeats a name; expected each name once")
        return names
