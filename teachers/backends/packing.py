"""Several sequences in one row of a batch, without seeing each other."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from losses.alignment.tokens import Tokens
from teachers.batching import packed_rows

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference that packing may make, as a part of the largest hidden state."""

LENGTHS = (9, 5, 4, 1)
"""Sequences of the self-test: they fill two rows, one to the end."""


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
        ValueError: hidden states differ from those of the same sequences alone.
    """
    was_training = model.training
    model.eval()
    size = model.config.get_text_config().vocab_size
    rows = [(np.arange(length) * (7 + length)) % size for length in LENGTHS]
    batch = [Tokens(ids, np.full(len(ids), -1)) for ids in rows]
    decoder, device = model.base_model, model.device
    alone = torch.cat([packed_hidden_states(decoder, [tokens], device)[0] for tokens in batch])
    packed = torch.cat(packed_hidden_states(decoder, batch, device))
    model.train(was_training)
    worst = ((packed - alone).abs().max() / alone.abs().max()).item()
    if not worst <= TOLERANCE.get(alone.dtype, 1e-3):
        raise ValueError(
            f"{name}: packed documents see each other in {type(model).__name__} with attention "
            f'"{model.config._attn_implementation}" (hidden states change by {worst:.2g} of the '
            "largest); set packing: false, or attn_implementation: sdpa in model_options"
        )
