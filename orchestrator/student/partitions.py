"""AdamW's state under ZeRO 1 to 3, where each rank holds a part of every parameter.

DeepSpeed's helpers gather and scatter single parameters. Three things they leave to the caller:
before the first step the moments do not exist; in stages 1 and 2 only those of the first parameter
group are linked to their parameters; in stage 3 a parameter is padded to a multiple of the number
of ranks.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.student.adamw import Kind, empty_moments, trained_parameters


class PartitionedState:
    """The state behind a DeepSpeed engine with ZeRO.

    Args:
        module: what the engine wraps.
        zero: the engine's optimizer.
        optimizer: the AdamW that it drives.
    """

    def __init__(self, module: nn.Module, zero: Any, optimizer: torch.optim.AdamW) -> None:
        self._parameters = trained_parameters(module)
        self._zero = zero
        self._optimizer = optimizer
        self._weights_partitioned = hasattr(zero, "fp32_partitioned_groups_flat")

    def num_updates(self) -> dict[str, int]:
        """The same for a whole flat group, where a missing gradient counts as zero.

        What a stage freezes counts as not moved: its moments are zeros, whatever AdamW counts.
        """
        counts = {name: self._count(flat) for names, flat in self._groups() for name in names}
        return {n: counts[n] if p.requires_grad else 0 for n, p in self._parameters.items()}

    def _count(self, flat: Tensor) -> int:
        moved = flat in self._optimizer.state  # asking for a missing entry would make one
        return int(self._optimizer.state[flat]["step"]) if moved else 0

    def _groups(self) -> Iterator[tuple[list[str], Tensor]]:
        """The names of the parameters in each flat group, and this rank's part of it."""
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        zero = self._zero
        members = zero.fp16_groups if self._weights_partitioned else zero.bit16_groups
        for parameters, flat in zip(members, self._partitions(), strict=True):
            yield [names[id(parameter)] for parameter in parameters], flat

    def read(self, kind: Kind, name: str) -> Float[Tensor, "*shape"]:
        """Gathered from all ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        with _trained(parameter := self._parameters[name]):
            if kind == "weights":
                found: Tensor = safe_get_full_fp32_param(parameter)
            else:
                self._link_moments()
                found = safe_get_full_optimizer_state(parameter, kind)
        return found.float()

    def begin(self, num_updates: Mapping[str, int]) -> None:
        """Moments of zeros for every flat group, linked to the parameters in it."""
        for names, flat in self._groups():
            empty_moments(self._optimizer, flat, max(num_updates[name] for name in names))
        self._link_moments()

    def set(self, kind: Kind, name: str, value: Float[Tensor, "*shape"]) -> None:
        """Each rank takes its part."""
        with _trained(parameter := self._parameters[name]):
            if self._weights_partitioned:
                self._set_part(kind, parameter, value)
            else:
                self._set_whole(kind, parameter, value)

    def forget(self, names: Collection[str]) -> None:
        """Moments of zeros and a count of zero for the flat groups of these parameters."""
        for members, flat in self._groups():
            if members[0] in names and flat in self._optimizer.state:
                for value in self._optimizer.state[flat].values():
                    value.zero_()

    def masters(self) -> list[Tensor]:
        """The flat parts of this rank."""
        return self._partitions()

    def _partitions(self) -> list[Tensor]:
        zero = self._zero
        found: list[Tensor] = (
            zero.fp32_partitioned_groups_flat
            if self._weights_partitioned
            else zero.single_partition_of_fp32_groups
        )
        return found

    def _link_moments(self) -> None:
        """Where links are missing: DeepSpeed drops them when it moves what it partitions."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self._weights_partitioned:  # stage 3 finds them without a link
            return
        groups = zip(self._zero.bit16_groups, self._partitions(), strict=True)
        for parameters, partition in groups:
            held = [p._hp_mapping for p in parameters if p._hp_mapping is not None]
            if not all(part.optim_fragment for part in held):
                lazy_init_hp_params_optimizer_state(parameters, partition, self._optimizer.state)

    def _set_whole(self, kind: Kind, parameter: nn.Parameter, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        value = value.to(parameter.device)
        if kind == "weights":
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)

    def _set_part(self, kind: Kind, parameter: Any, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        part = own_part(value, parameter.ds_tensor.numel(), torch.distributed.get_rank())
        if kind == "weights":
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, kind)


@contextmanager
def _trained(parameter: nn.Parameter) -> Iterator[None]:
    """ZeRO-3 tells and sets nothing of a parameter that is frozen just now."""
    was_trained = parameter.requires_grad
    parameter.requires_grad = True
    try:
        yield
    finally:
        parameter.requires_grad_(was_trained)


def own_part(value: Float[Tensor, "*shape"], size: int, rank: int) -> Float[Tensor, "part"]:
    """A rank's part of a parameter that is cut into parts of equal size, the last one padded.

    >>> own_part(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 4, 1)
    tensor([5., 6., 0., 0.])
    """
    part = value.new_zeros(size)
    inside = value.flatten()[rank * size : (rank + 1) * size]
    part[: len(inside)] = inside
    return part
