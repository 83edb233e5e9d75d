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

    The pseudo-label is ``softmax(scale * log-probabilities + scores)``. The KL has a gradient to
    the student only, the difference of entropies (nats) to the scale only.
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
            scores = labels.scores[block].to(own)
            pseudo = (own * scale).scatter_add_(-1, labels.ids[block], scores)
            log_target = torch.log_softmax(pseudo, -1)
            target = torch.exp(log_target, out=pseudo)
            if targets is not None:
                targets.index_copy_(0, rows[block], target)
            weighted = log_target.mul_(target)  # p log p
            crossed = target.mul_(own)  # p log q
            entropy = -weighted.sum(-1)
            gap = entropy - labels.entropy[block].to(own)
            sums += torch.stack([-(entropy + crossed.sum(-1)).sum(), gap.square().sum()])
            if wanted:
                slope = -2 * gap
                to_scale += (slope * entropy) @ crossed + slope @ weighted.mul_(own)
        ctx.save_for_backward(targets, to_scale)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        targets, to_scale = ctx.saved_tensors
        to_kl, to_entropy = gradients[0].unbind()
        return targets * -to_kl, to_scale * to_entropy, None, None


def _blocks(num_rows: int, table: Float[Tensor, "any vocab"]) -> list[slice]:
    """Rows that stay in a CPU's cache; all at once on other devices."""
    size = max(1, ELEMENTS_IN_BLOCK // table.shape[-1])
    size = size if table.device.type == "cpu" else max(1, num_rows)
    return [slice(i, min(i + size, num_rows)) for i in range(0, num_rows, size)]
