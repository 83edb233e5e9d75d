"""Versions of the teacher that follows the student: the running mean of its weights as a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from orchestrator.atomic import atomic_folder
from orchestrator.student.engine import StudentEngine
from orchestrator.student.state import averaged_weights


@dataclass(frozen=True)
class Spoken:
    """The version that a teacher speaks from.

    Args:
        teacher: its name.
        version: counts from 0.
        folder: where it lies.
        dtype: number format of the averaged weights in it.
    """

    teacher: str
    version: int
    folder: Path
    dtype: torch.dtype = torch.float32


PREFIX = "model."
"""Of the student's parameters in the module that holds its losses too."""


def save_version(engine: StudentEngine, folder: Path, dtype: torch.dtype, rank: int) -> None:
    """Write the mean as a folder that ``from_pretrained`` opens; all ranks call, rank 0 writes.

    Args:
        engine: keeps a running mean.
        folder: what is there under this name is replaced.
        dtype: number format of the averaged weights.
        rank: this one.
    """
    weights, mean = engine.state_dict(), averaged_weights(engine, rank)
    if rank != 0:
        return
    student = engine.module.student
    with atomic_folder(folder, replace=True) as partial:
        student.model.save_pretrained(
            partial, state_dict=with_mean(student.model, weights, mean, dtype)
        )


def with_mean(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    mean: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The model's weights with the mean in the place of what is trained, under all of its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    aliases = {name: group for group in names.values() for name in group}
    found = dict(weights)
    for name, value in mean.items():
        if name.startswith(PREFIX):
            averaged = value.to(dtype)
            own = [alias for alias in aliases[name.removeprefix(PREFIX)] if alias in found]
            found |= dict.fromkeys(own, averaged)
    return found
