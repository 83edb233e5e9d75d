"""Several sequences in one row of a batch, without seeing each other."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from losses.alignment.tokens import Tokens
from teachers.batching import packed_rows

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest mean difference that packing may make, as a part of the mean size of hidden states."""

LENGTHS = (9, 5, 3, 1)
"""Sequences of the self-test; the last three fill one row."""


def packed_hidden_states(
    decoder: nn.Module, batch: Sequence[Tokens], device: torch.device
) -> list[Float[Tensor, "_ hidden"]]:
    """Final-norm hidden states of each sequence, as ``hidden_states`` gives them.

    The rows are as long as the longest sequence. Positions start at 0 in each sequence; without
    an attention mask ``transformers`` takes that as the mark of a new sequence, and none sees
    another. What is left of a row comes last, so nobody reads it.
    """
    rows = packed_rows([len(tokens) for tokens in batch])
    longest = max(len(tokens) for tokens in batch)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    positions = torch.zeros_like(ids)
    places: dict[int, tuple[int, slice]] = {}
    for row, members in enumerate(rows):
        end = 0
        for index in members:
            place = slice(end, end := end + len(batch[index]))
            ids[row, place] = torch.from_numpy(batch[index].ids)
            positions[row, place] = torch.arange(len(batch[index]))
            places[index] = (row, place)
    output = decoder(input_ids=ids.to(device), position_ids=positions.to(device), use_cache=False)
    states: Tensor = output.last_hidden_state
    return [states[places[index]] for index in range(len(batch))]


@torch.no_grad()
def check_packing(model: PreTrainedModel, name: str) -> None:
    """Refuse a model in which packed sequences see each other.

    Raises:
        ValueError: hidden states differ from those of the same sequences alone, or change with
            another sequence of the row, or embeddings read across the sequences.
    """
    if getattr(model.get_input_embeddings(), "reads_neighbours", False):
        raise ValueError(
            f"{name}: its n-gram embeddings would read across packed documents; set packing: false"
        )
    was_training = model.training
    model.eval()
    size = model.config.get_text_config().vocab_size
    batch, others = _probes(size, step=7), _probes(size, step=11)
    decoder, device = model.base_model, model.device
    alone = torch.cat([packed_hidden_states(decoder, [tokens], device)[0] for tokens in batch])
    packed = torch.cat(packed_hidden_states(decoder, batch, device))
    beside_others = torch.cat(packed_hidden_states(decoder, [*others[:2], *batch[2:]], device))
    model.train(was_training)
    last = sum(LENGTHS[2:])
    changes = _change(alone, packed), _change(packed[-last:], beside_others[-last:])
    if not (changes[0] <= TOLERANCE.get(alone.dtype, 1e-3) and changes[1] <= 1e-3):
        raise ValueError(
            f"{name}: packed documents see each other in {type(model).__name__} with attention "
            f'"{model.config._attn_implementation}" (hidden states change by {max(changes):.1%}); '
            "set packing: false, or attn_implementation: sdpa in model_options"
        )


def _probes(vocabulary_size: int, step: int) -> list[Tokens]:
    rows = [(1 + np.arange(length) * (step + length)) % vocabulary_size for length in LENGTHS]
    return [Tokens(ids, np.full(len(ids), -1)) for ids in rows]


def _change(before: Float[Tensor, "token hidden"], after: Float[Tensor, "token hidden"]) -> float:
    """Mean absolute change over mean absolute size: a few huge entries do not hide the others."""
    return float((after - before).float().abs().mean() / before.float().abs().mean())
