"""KL to a fixed pseudo-label, and the entropies that train the adapter, block by block.

The pseudo-label is a constant for the student, and the student a constant for the adapter. Rows
are read in blocks that stay in a CPU's cache, and both gradients are made with the values.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.prediction import Prediction
from losses.reencoding.pseudo_labels import LabelTensors, PseudoLabels

ELEMENTS_IN_BLOCK = 2**18
"""Entries of the table worked on at once on a CPU: few enough for its cache."""


def pseudo_label_sums(
    student: Prediction, labels: PseudoLabels, scale: Float[Tensor, "vocab"]
) -> Float[Tensor, "2"]:
    """KL(pseudo-label || student) and the squared difference of entropies, summed over the rows.

    With ``own`` "rest" the pseudo-label has the scores as log-probabilities of its tokens, and
    ``softmax(scale * log-probabilities)`` of all others shares the mass ``rest``. With "added" it
    is ``softmax(scale * log-probabilities + scores)``. The KL has a gradient to the student only,
    the difference of entropies (nats) to the scale only.
    """
    tensors = labels.tensors(student.device)

    def read_part(part: slice) -> Float[Tensor, "2"]:
        cut = tensors.cut(part)

        def read(table: Float[Tensor, "any vocab"], rows: Int64[Tensor, "row"]) -> Tensor:
            sums: Tensor = _Sums.apply(table, scale.to(table.dtype), rows, cut)  # type: ignore[no-untyped-call]
            return sums

        return student.map_table(read, cut.positions - 1)

    parts = student.parts(np.ones(len(labels.positions), dtype=np.int64))
    if not parts:
        return (student.hidden.sum() * 0 + scale.sum() * 0).expand(2)
    return torch.stack([read_part(part) for part in parts]).sum(0)


class _Sums(torch.autograd.Function):
    """Both sums; their gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, scale: Tensor, rows: Tensor, labels: LabelTensors
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        targets = torch.zeros_like(table) if wanted else None
        to_scale, sums = torch.zeros_like(scale), table.new_zeros(2)
        for block in _blocks(len(rows), table):
            own = table.index_select(0, rows[block])
            cut = labels.cut(block)
            log_target = _log_target(own * scale, cut)
            target = log_target.exp()
            if targets is not None:
                targets.index_copy_(0, rows[block], target)
            weighted = log_target.mul_(target)  # p log p
            crossed = target.mul_(own)  # p log q
            entropy = -weighted.sum(-1)
            gap = entropy - cut.entropy.to(own)
            sums += torch.stack([-(entropy + crossed.sum(-1)).sum(), gap.square().sum()])
            if wanted:
                slope = -2 * gap
                if labels.own == "rest":
                    entropy = _of_rest(weighted, crossed, cut)
                to_scale += (slope * entropy) @ crossed + slope @ weighted.mul_(own)
        ctx.save_for_backward(targets, to_scale)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        targets, to_scale = ctx.saved_tensors
        to_kl, to_entropy = gradients[0].unbind()
        return targets * -to_kl, to_scale * to_entropy, None, None


def _log_target(scaled: Float[Tensor, "row vocab"], labels: LabelTensors) -> Tensor:
    """The pseudo-label; ``scaled`` is written over."""
    scores = labels.scores.to(scaled)
    if labels.own == "added":
        return torch.log_softmax(scaled.scatter_add_(-1, labels.ids, scores), -1)
    others = scaled.scatter_(-1, labels.ids, -torch.inf)
    others += (labels.rest.to(scaled) - others.logsumexp(-1)).unsqueeze(-1)
    return others.scatter_(-1, labels.ids, scores)


def _of_rest(
    weighted: Float[Tensor, "row vocab"], crossed: Float[Tensor, "row vocab"], labels: LabelTensors
) -> Float[Tensor, "row"]:
    """The scale moves only the rest: the listed tokens' entries are set to zero.

    Returns the entropy of the rest less the log of its mass.
    """
    weighted.scatter_(-1, labels.ids, 0)
    crossed.scatter_(-1, labels.ids, 0)
    mass = labels.rest.to(weighted).exp()
    return torch.where(
        mass > 0, -weighted.sum(-1) / mass.clamp(min=torch.finfo(mass.dtype).tiny), 0
    )


def _blocks(num_rows: int, table: Float[Tensor, "any vocab"]) -> list[slice]:
    """Rows that stay in a CPU's cache; all at once on other devices."""
    size = max(1, ELEMENTS_IN_BLOCK // table.shape[-1])
    size = size if table.device.type == "cpu" else max(1, num_rows)
    return [slice(i, min(i + size, num_rows)) for i in range(0, num_rows, size)]
