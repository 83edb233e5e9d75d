"""A byte model that adds, at each byte, the frozen row of the longest old token that ends there.

This file is copied beside the weights of such a model, with the classes of its architecture behind
it, and opened with ``trust_remote_code=True``. So it needs torch and transformers alone, and says
shapes in words.

Source: Minixhofer et al. 2025, arXiv:2503.20083, appendix C (``expand_input_ids``).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

LONGEST = 16
"""Bytes of the longest token that is looked up."""
NUM_BYTES = 256
SIZES = "ngram_sizes"
"""Key of the configuration: how many edges, nodes, new ids and old tokens the buffers have."""
SCALE = "ngram_scale"
"""Key of the configuration: the factor on embeddings, as Gemma has one."""


class NGramEmbedding(nn.Embedding):
    """Rows of bytes and special tokens, which are trained, and of old tokens, which are not.

    Args:
        num_rows: rows that are trained.
        width: of a row.
        sizes: ``edges``, ``nodes``, ``ids`` and ``old`` tokens.
        scale: factor on the sum of both rows.
        padding_idx: as for ``nn.Embedding``.
    """

    reads_neighbours = True
    """What a token's row is depends on those before it: a cache hides them, packing mixes them."""

    ngram_keys: Tensor
    ngram_tokens: Tensor
    ngram_alone: Tensor
    ngram_rows: Tensor

    def __init__(
        self,
        num_rows: int,
        width: int,
        sizes: dict[str, int],
        scale: float = 1.0,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(num_rows, width, padding_idx)
        self.ngram_scale = scale
        for name, size in (("keys", "edges"), ("tokens", "nodes"), ("alone", "ids")):
            self.register_buffer(f"ngram_{name}", torch.zeros(sizes[size], dtype=torch.long))
        self.register_buffer("ngram_rows", torch.zeros(sizes["old"], width))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeddings of whole sequences ``[batch, token]``; ids of one axis are read alone."""
        rows = super().forward(input_ids)
        if input_ids.ndim == 2:
            found = self.longest(input_ids)
            old = embedding(found.clamp(min=0), self.ngram_rows.to(rows.dtype))
            rows = rows + torch.where(found[..., None] >= 0, old, 0)
        scale = torch.tensor(self.ngram_scale, dtype=rows.dtype, device="cpu")
        return rows * scale.item()  # rounded as the architecture's own factor is

    def longest(self, ids: Tensor) -> Tensor:
        """The longest old token that ends at each position of ``[batch, token]``, -1 for none."""
        alone = self.ngram_alone[ids.clamp(max=len(self.ngram_alone) - 1)]
        found, walking = alone, ids < NUM_BYTES
        node = torch.zeros_like(ids)
        for depth in range(min(LONGEST, ids.shape[1])):
            byte = nn.functional.pad(ids, (depth, 0), value=NUM_BYTES)[:, : ids.shape[1]]
            key = node * NUM_BYTES + byte
            edge = torch.searchsorted(self.ngram_keys, key).clamp(max=len(self.ngram_keys) - 1)
            walking = walking & (byte < NUM_BYTES) & (self.ngram_keys[edge] == key)
            node = torch.where(walking, edge + 1, 0)
            token = self.ngram_tokens[node]
            found = torch.where(walking & (token >= 0), token, found)
        return found


class NGramBytes:
    """What an architecture's class gets in addition."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        model: Any = self
        read = model.get_input_embeddings()
        sizes, scale = getattr(config, SIZES), getattr(config, SCALE)
        shape = read.num_embeddings, read.embedding_dim
        model.set_input_embeddings(NGramEmbedding(*shape, sizes, scale, read.padding_idx))
        model.tie_weights()

    def prepare_inputs_for_generation(self, input_ids: Tensor, **options: Any) -> dict[str, Any]:
        """The new tokens' embeddings, made with the bytes before them, which a cache hides."""
        model: Any = super()
        inputs: dict[str, Any] = model.prepare_inputs_for_generation(input_ids, **options)
        if (new := inputs.get("input_ids")) is not None:
            whole: Any = self
            size = new.shape[1]
            seen = input_ids[:, -(size + LONGEST) :]
            inputs["inputs_embeds"] = whole.get_input_embeddings()(seen)[:, -size:]
            inputs["input_ids"] = None
        return inputs
