"""How likely a model finds the document's own tokens, and a border after each of them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from losses.divergence import row_blocks
from losses.prediction import Prediction, gather
from losses.signals import TokenLikelihoods, pack


@dataclass(frozen=True)
class IdentifiedLikelihoods(TokenLikelihoods):
    """The same with the teacher's token ids: 16 bytes a token."""

    ids: Int32[np.ndarray, "token"]


def identified(signal: TokenLikelihoods, ids: Int64[np.ndarray, "token"]) -> IdentifiedLikelihoods:
    """The signal with the ids of its tokens."""
    return IdentifiedLikelihoods(
        signal.byte_ends, signal.logprob, signal.border_logprob, ids.astype(np.int32)
    )


def token_likelihoods(
    teacher: Prediction, border_ids: Int64[np.ndarray, "border"] | None
) -> TokenLikelihoods:
    """The signal, from one pass over the teacher's distributions and without gradients.

    Args:
        teacher: the model's prediction of the document.
        border_ids: tokens whose joint probability is wanted after each token; None for none.
    """
    ends = teacher.tokens.byte_ends.astype(np.int32)
    if border_ids is None:
        own = np.full(len(ends), np.nan, dtype=np.float32)
        with torch.no_grad():
            own[pack(teacher.scored)] = pack(teacher.logprob_of_scored().float())
        return TokenLikelihoods(ends, own, np.full_like(own, np.nan))
    return TokenLikelihoods(ends, *_with_borders(teacher, border_ids))


def _with_borders(
    teacher: Prediction, border_ids: Int64[np.ndarray, "border"]
) -> tuple[Float32[np.ndarray, "token"], Float32[np.ndarray, "token"]]:
    scored = teacher.scored_positions
    rows = torch.unique(torch.cat([scored - 1, scored]))
    next_ids = torch.from_numpy(np.append(teacher.tokens.ids, 0)).to(teacher.device)[rows + 1]
    borders = torch.tensor(border_ids, device=teacher.device)

    def read(
        logprobs: Float[Tensor, "row vocab"], ids: Int64[Tensor, "row"]
    ) -> Float[Tensor, "row 2"]:
        own = gather(logprobs, ids)
        return torch.stack([own, border_logprob(logprobs, borders)], dim=-1)

    with torch.no_grad():
        values = teacher.map_rows(read, rows, next_ids)
    at_row = np.full((len(teacher.tokens), 2), np.nan, dtype=np.float32)
    at_row[pack(rows)] = pack(values)
    unknown = ~pack(teacher.scored)
    own, after = np.roll(at_row[:, 0], 1), at_row[:, 1].copy()
    own[unknown] = after[unknown] = np.nan
    return own, after


def border_logprob(
    logprobs: Float[Tensor, "row vocab"], border_ids: Int64[Tensor, "border"]
) -> Float[Tensor, "row"]:
    """Log-probability (nats) that the next token is one of the border's; finite when tiny.

    >>> table = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> border_logprob(table, torch.tensor([1, 2])).exp().tolist()
    [0.5]
    """
    blocks = [rows.index_select(-1, border_ids).logsumexp(-1) for rows in row_blocks(logprobs)]
    return torch.cat(blocks)
