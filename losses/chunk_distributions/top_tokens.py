"""The teacher's half of the losses that read its most likely tokens.

Each row lists the realised token, the k most likely others and, as one number, all the mass that
is left, so a listed row is a distribution and every divergence on it is at least zero.
"""

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.divergence import row_blocks
from losses.needs import Need
from losses.prediction import Prediction, RowFunction, gather
from losses.signals import TopProbabilities, TopTokens, pack
from losses.told import Listed, ToldPrediction, refuse

Precision: TypeAlias = Literal["float16", "bfloat16", "float32"]
SORT_BY_NUMPY = 256
"""On a CPU numpy finds more than so many largest entries sooner than torch (measured)."""


def top_tokens(
    teacher: Prediction, k: int, *, temperature: float, precision: Precision, after: bool = False
) -> TopTokens:
    """The signal, from one pass over the teacher's distributions and without gradients.

    Args:
        teacher: the model's prediction of the document.
        k: tokens listed beside the realised one, at most.
        temperature: divides the logits.
        precision: of the listed log-probabilities; the realised one and the tail are float32.
        after: read the row that follows each scored token in place of the row that predicts it
            (GOLD's "observed" merging); ``logprob`` is then that of the same token once more.

    Raises:
        ValueError: the prediction was told, and not all that is asked for.
    """
    if isinstance(teacher, ToldPrediction):
        if after or temperature != 1:
            refuse(Need.DISTRIBUTIONS)
        return _signal(teacher, teacher.listed(k), precision)
    signal, _ = top_tokens_and(
        teacher, k, _nothing, temperature=temperature, precision=precision, after=after
    )
    return signal


def top_tokens_and(
    teacher: Prediction,
    k: int,
    beside: RowFunction,
    *,
    temperature: float,
    precision: Precision,
    after: bool = False,
) -> tuple[TopTokens, Float[Tensor, "row more"]]:
    """The same signal, and what ``beside`` makes of each row, in one pass.

    Args:
        teacher: the model's prediction of the document.
        k: see ``top_tokens``, as all others.
        beside: a few rows of log-probabilities (nats) to some numbers a row.
        temperature: see there.
        precision: see there.
        after: see there.
    """
    scored = teacher.scored_positions
    own_ids = torch.from_numpy(teacher.tokens.ids).to(teacher.device)[scored]
    k = max(0, min(k, teacher.head.num_valid - 1))

    def read(logprobs: Float[Tensor, "row vocab"], ids: Int64[Tensor, "row"]) -> Tensor:
        table = tempered(logprobs, temperature)
        blocks = row_blocks(table)
        cut = zip(blocks, ids.split([len(rows) for rows in blocks]), strict=True)
        return torch.cat([torch.cat([_listed(r, own, k), beside(r)], -1) for r, own in cut])

    with torch.no_grad():
        listed = teacher.map_rows(read, scored if after else scored - 1, own_ids)
    own, tail, others, ids, more = listed.split([1, 1, k, k, listed.shape[-1] - 2 - 2 * k], dim=-1)
    rows = Listed(own_ids, own.squeeze(-1), ids.long(), others, tail.squeeze(-1))
    return _signal(teacher, rows, precision), more


def _signal(teacher: Prediction, rows: Listed, precision: Precision) -> TopTokens:
    logprob = np.full(len(teacher.tokens), np.nan, dtype=np.float32)
    logprob[pack(teacher.scored_positions)] = pack(rows.logprob.float())
    return TopTokens(
        byte_ends=teacher.tokens.byte_ends.astype(np.int32),
        logprob=logprob,
        others=pack(rows.others.to(getattr(torch, precision))),
        tail=pack(rows.tail.float()),
        realised=pack(rows.realised.to(torch.int32)),
        ids=pack(rows.ids.to(torch.int32)),
    )


def without_ids(signal: TopTokens) -> TopProbabilities:
    """What is left for a loss that never asks which tokens they are."""
    return TopProbabilities(signal.byte_ends, signal.logprob, signal.others, signal.tail)


def tempered(
    logprobs: Float[Tensor, "row vocab"], temperature: float
) -> Float[Tensor, "row vocab"]:
    """Log-probabilities of the model whose logits are divided by the temperature."""
    return logprobs if temperature == 1 else torch.log_softmax(logprobs / temperature, dim=-1)


def realised_logprobs(student: Prediction, temperature: float) -> Float[Tensor, "scored"]:
    """Log-probability (nats) of each scored token at the temperature."""
    if temperature == 1:
        return student.logprob_of_scored()
    positions = student.scored_positions
    ids = torch.from_numpy(student.tokens.ids).to(student.device)[positions]
    return student.map_rows(
        lambda rows, own: gather(tempered(rows, temperature), own), positions - 1, ids
    )


def largest(table: Float[Tensor, "row vocab"], k: int) -> Int64[Tensor, "row k"]:
    """Where each row's k largest entries are, in no order."""
    if table.device.type != "cpu" or k <= SORT_BY_NUMPY:
        return table.topk(k, sorted=False).indices
    values, first = table.detach().numpy(), table.shape[-1] - k
    if not first:
        return torch.arange(k).expand(len(table), k)
    return torch.from_numpy(np.argpartition(values, first, axis=-1)[:, first:])


def _nothing(logprobs: Float[Tensor, "row vocab"]) -> Float[Tensor, "row 0"]:
    return logprobs[:, :0]


def _listed(
    logprobs: Float[Tensor, "row vocab"], realised: Int64[Tensor, "row"], k: int
) -> Float[Tensor, "row columns"]:
    """Realised log-probability, tail, k others and their ids (below 2²⁴, exact in fp32)."""
    rest = logprobs.scatter(-1, realised.unsqueeze(-1), -torch.inf)
    ids = largest(rest, k)
    others = rest.gather(-1, ids)
    tail = rest.scatter_(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([gather(logprobs, realised).unsqueeze(-1), tail, others, ids.to(tail)], dim=-1)
