"""What the plan computes on: devices with their memory, and how fast they multiply."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import psutil
import torch

GIB = 2**30

MEASURED_ROWS = 512
"""Rows of the matrix product that is timed; its sides are those of the model."""

REPEATS = 10


@dataclass(frozen=True)
class Declared:
    """What a user says of machines that are not at hand; None is looked up or measured here.

    Args:
        gpus: in the whole cluster.
        gpu_memory: bytes of each.
        flops: floating-point operations a second that a device really attains.
    """

    gpus: float | None = None
    gpu_memory: int | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Hardware:
    """The devices that a run is planned for.

    Args:
        num_cpus: cores of this machine.
        memory: bytes of this machine.
        num_gpus: in the cluster.
        gpu_memory: bytes of each, 0 without one.
        flops: declared speed of a device, None to measure it.
    """

    num_cpus: int
    memory: int
    num_gpus: float
    gpu_memory: int
    flops: float | None = None

    @classmethod
    def here(cls, declared: Declared) -> "Hardware":
        """This machine, and what was declared.

        Raises:
            ValueError: GPUs without their memory.
        """
        found = torch.cuda.device_count()
        gpus = float(found) if declared.gpus is None else declared.gpus
        memory = declared.gpu_memory
        if memory is None and found:
            memory = torch.cuda.get_device_properties(0).total_memory
        if gpus and not memory:
            raise ValueError(
                "--gpus without --gpu-memory: there is none here to look at; expected the memory "
                "of each in GiB, such as --gpu-memory 80"
            )
        return cls(
            os.cpu_count() or 1,
            psutil.virtual_memory().total,
            gpus,
            memory or 0,
            declared.flops,
        )


def flops_of(hardware: Hardware, dtype: torch.dtype, width: int, threads: int) -> float:
    """Operations a second of one device for a model of this width: declared, or measured.

    Args:
        hardware: what there is.
        dtype: of the weights.
        width: of the hidden states.
        threads: of a CPU; 0 is a GPU.

    Raises:
        ValueError: a GPU that is not here, and no speed was declared.
    """
    if hardware.flops is not None:
        return hardware.flops
    if not threads and not torch.cuda.is_available():
        raise ValueError(
            "no GPU is here to measure; declare what one attains: --device-speed 3e14 (an H100 in "
            "bfloat16 reaches about 40 % of 1e15)"
        )
    return (cores(threads) if threads else 1) * _measured(dtype, width, on_cpu=bool(threads))


def cores(threads: int) -> int:
    """Physical cores that so many threads work on: more threads than cores add nothing."""
    return min(threads, psutil.cpu_count(logical=False) or threads)


@lru_cache
def _measured(dtype: torch.dtype, width: int, *, on_cpu: bool) -> float:
    """Of a GPU or of one thread, in products as a linear layer makes them."""
    device = "cpu" if on_cpu else "cuda"
    left = torch.zeros(MEASURED_ROWS, width, dtype=dtype, device=device)
    right = torch.zeros(3 * width, width, dtype=dtype, device=device)

    def multiply() -> None:
        torch.nn.functional.linear(left, right)
        if not on_cpu:
            torch.cuda.synchronize()

    return 2 * MEASURED_ROWS * width * 3 * width / _quickest(multiply, on_cpu=on_cpu)


@lru_cache
def seconds_per_entry(columns: int) -> float:
    """Seconds that a log-softmax and its backward pass take one core for an entry of a table."""
    rows = max(1, 2**22 // columns)
    leaf = torch.zeros(rows, columns, requires_grad=True)

    def compare() -> None:
        table = leaf.log_softmax(-1)
        table.backward(table.detach())

    return _quickest(compare, on_cpu=True) / (rows * columns)


def _quickest(work: Callable[[], None], *, on_cpu: bool) -> float:
    """Seconds on one thread; of the processor, which others may keep busy meanwhile."""
    clock = time.process_time if on_cpu else time.perf_counter
    before, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(REPEATS + 1):
            start = clock()
            work()
            seconds.append(clock() - start)
    finally:
        torch.set_num_threads(before)
    return min(seconds[1:])
