"""The losses of dual-space distillation, one in each model's space, read in chunks of rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from losses.prediction import Head, Prediction, gather

Compare: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Two tables of log-probabilities (nats), the teacher's first, to one value a row."""


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Calls of the module in here pass gradients to its inputs, none to its parameters.

    The module is still called as a module, so that ZeRO-3 can gather its weights.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True


def rows_in_memory(student: Prediction, head: Head) -> int:
    """How many rows of another head are held at once, as the student's are."""
    return max(1, student.chunk_size * student.head.num_valid // head.num_valid)


def in_parts(function: Callable[..., Tensor], size: int, *args: Tensor) -> Tensor:
    """The function of a few rows at once; again in the backward pass if they are many."""
    if len(args[0]) <= size:
        return function(*args)
    parts = zip(*(values.split(size) for values in args), strict=True)
    outputs: list[Tensor] = [checkpoint(function, *cut, use_reentrant=False) for cut in parts]
    return torch.cat(outputs)


def in_student_space(
    student: Prediction,
    positions: Int64[Tensor, "row"],
    projected: Float[Tensor, "row width"],
    labels: Int64[Tensor, "row"],
    compare: Compare,
    *,
    restrict: bool,
) -> Float[Tensor, "row 2"]:
    """What the projected teacher says of the label, and how far the student is from it.

    Args:
        student: the student's prediction.
        positions: its rows.
        projected: the teacher's states there, in the student's space.
        labels: what the projected teacher should say; -1 for nothing, both losses are then 0.
        compare: the divergence, with a gradient to the student only.
        restrict: compare only where the projected teacher finds its label most likely.
    """

    def read(
        logprobs: Float[Tensor, "row vocab"],
        states: Float[Tensor, "row width"],
        labels: Int64[Tensor, "row"],
    ) -> Float[Tensor, "row 2"]:
        with frozen(student.head.linear):
            teacher = torch.log_softmax(student.head.logits(states), dim=-1)
        known = labels >= 0
        answers = torch.where(known, -gather(teacher, labels.clamp(min=0)), 0)
        teacher = teacher.detach()
        kept = teacher.argmax(-1) == labels if restrict else known
        values = torch.where(kept, compare(teacher, logprobs), 0)
        return torch.stack([answers, values], dim=-1)

    return student.map_rows(read, positions, projected.to(student.hidden.dtype), labels)


def in_teacher_space(
    head: Head,
    hidden: Float[Tensor, "row width"],
    projected: Float[Tensor, "row width"],
    compare: Compare,
    size: int,
) -> Float[Tensor, "row"]:
    """How far the projected student is from the teacher.

    Args:
        head: the teacher's.
        hidden: its states.
        projected: the student's states for the same rows, in the teacher's space.
        compare: the divergence, with a gradient to its second argument only.
        size: rows held at once.
    """

    def read(
        states: Float[Tensor, "row width"], ours: Float[Tensor, "row width"]
    ) -> Float[Tensor, "row"]:
        with torch.no_grad():
            teacher = torch.log_softmax(head.logits(states), dim=-1)
        return compare(teacher, torch.log_softmax(head.logits(ours), dim=-1))

    return in_parts(read, size, hidden, projected.to(hidden.dtype))


@torch.no_grad()
def most_likely(head: Head, hidden: Float[Tensor, "row width"], size: int) -> Int64[Tensor, "row"]:
    """The token that the head finds most likely in each row."""
    return torch.cat([head.logits(rows).argmax(-1) for rows in hidden.split(size)])
