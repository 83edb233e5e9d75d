"""A loss or a gradient that is not finite ends the training, and says where it came from."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.errors import TrainingDiverged
from orchestrator.student.engine import Update
from orchestrator.student.module import Example


def check_loss(
    objective: Float[Tensor, ""],
    names: Sequence[str],
    totals: Float[Tensor, "term"],
    micro_batch: Sequence[Example],
) -> None:
    """Refuse a loss that is not finite.

    Args:
        objective: the weighted sum of the terms.
        names: of the terms, the cross-entropy first.
        totals: each term's sum over the micro-batch (nats).
        micro_batch: whose documents are named.

    Raises:
        TrainingDiverged: the objective is not finite; says which terms are not, or, if only their
            weighted sum is not, that.
    """
    if torch.isfinite(objective):
        return
    values = zip(names, totals.tolist(), strict=True)
    wrong = [f"{name} is {value}" for name, value in values if not math.isfinite(value)]
    documents = ", ".join(example.document.name for example in micro_batch)
    raise TrainingDiverged(
        f"the loss is not finite: {', '.join(wrong) or 'the weighted sum'} on documents "
        f"{documents}; lower train.learning_rate or raise train.warmup_steps; if it happens at "
        "the first step, check the data"
    )


def check_gradient(update: Update) -> None:
    """Refuse an update whose gradient was not finite.

    Raises:
        TrainingDiverged: its norm is not finite.
    """
    if not math.isfinite(update.grad_norm):
        raise TrainingDiverged(
            f"the gradient's norm is {update.grad_norm}, though the loss is finite: lower "
            "train.learning_rate or raise train.warmup_steps"
        )
