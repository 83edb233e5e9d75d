"""AdamW's state under ZeRO 1 to 3, where each rank holds a part of every parameter.

DeepSpeed's helpers gather and scatter single parameters. Three things they leave to the caller:
before the first step the moments do not exist; in stages 1 and 2 only those of the first parameter
group are linked to their parameters; in stage 3 a parameter is padded to a multiple of the number
of ranks.
"""

from collections.abc import Mapping
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
        self._linked = self._weights_partitioned  # stage 3 finds them without a link

    def num_updates(self) -> dict[str, int]:
        """The same for all: ZeRO moves flat groups, where a missing gradient counts as zero."""
        first = self._partitions()[0]
        moved = first in self._optimizer.state  # asking for a missing entry would make one
        count = int(self._optimizer.state[first]["step"]) if moved else 0
        return dict.fromkeys(self._parameters, count)

    def read(self, kind: Kind, name: str) -> Float[Tensor, "*shape"]:
        """Gathered from all ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self._parameters[name]
        if kind == "weights":
            found: Tensor = safe_get_full_fp32_param(parameter)
        else:
            self._link_moments()
            found = safe_get_full_optimizer_state(parameter, kind)
        return found.float()

    def begin(self, num_updates: Mapping[str, int]) -> None:
        """Moments of zeros for every flat group, linked to the parameters in it."""
        count = max(num_updates.values())
        for partition in self._partitions():
            empty_moments(self._optimizer, partition, count)
        self._link_moments()

    def set(self, kind: Kind, name: str, value: Float[Tensor, "*shape"]) -> None:
        """Each rank takes its part."""
        if self._weights_partitioned:
            self._set_part(kind, self._parameters[name], value)
        else:
            self._set_whole(kind, self._parameters[name], value)

    def _partitions(self) -> list[Tensor]:
        zero = self._zero
        found: list[Tensor] = (
            zero.fp32_partitioned_groups_flat
            if self._weights_partitioned
            else zero.single_partition_of_fp32_groups
        )
        return found

    def _link_moments(self) -> None:
        """Once the moments exist they stay the same tensors, so once is enough."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self._linked:
            return
        self._linked = True
        groups = zip(self._zero.bit16_groups, self._partitions(), strict=True)
        for parameters, partition in groups:
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


def own_part(value: Float[Tensor, "*shape"], size: int, rank: int) -> Float[Tensor, "part"]:
    """A rank's part of a parameter that is cut into parts of equal size, the last one padded.

    >>> own_part(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 4, 1)
    tensor([5., 6., 0., 0.])
    """
    part = value.new_zeros(size)
    inside = value.flatten()[rank * size : (rank + 1) * size]
    part[: len(inside)] = inside
    return part
