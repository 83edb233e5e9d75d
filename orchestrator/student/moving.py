"""Moves a student between the device and main memory, with all that its optimizer keeps."""

from typing import Any

import torch
from torch import nn


def move_whole(module: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> None:
    """Without ZeRO: the weights, and the moments of each."""
    module.to(device)
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim:  # AdamW's counts are scalars
                state[key] = value.to(device)
    free_memory()


def move_partitions(engine: Any, module: nn.Module, device: str) -> None:
    """With ZeRO 1 or 2: DeepSpeed moves what it partitions; what is frozen goes by itself."""
    if device == "cpu":
        engine.offload_states(pin_memory=False)
    else:
        engine.reload_states()
    frozen = [p for p in module.parameters() if not p.requires_grad]
    for tensor in (*frozen, *module.buffers()):
        tensor.data = tensor.data.to(device)
    free_memory()


def free_memory() -> None:
    """Give what is free back to the device, for the processes that take it next."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
