"""Where a model comes from and how its weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from teachers.chat import TemplateChoice


@dataclass(frozen=True)
class ModelSource:
    """A folder (absolute) or hub id; ``options`` are passed to ``from_pretrained``.

    Remote code runs only where ``trust_remote_code`` is set, which needs a pinned ``revision``.
    ``template`` says how chats are rendered (``ChatTemplate``), ``packing`` whether several
    documents share a row of a batch (``hidden_states``).
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)
    template: TemplateChoice | None = None
    packing: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format of the weights."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found
