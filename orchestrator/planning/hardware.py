"""What the plan computes on: devices with their memory, and how fast they multiply."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
import torch

from orchestrator.environment import num_cpus

GIB = 2**30

MEASURED_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows of the matrix product that is timed; its other sides are those of the model."""

REPEATS = 10

PATIENCE_S = 2.0
"""A measurement that took so long is not repeated."""

MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux tells how much of the machine a container may take."""

STORE_SHARE, STORE_MOST = 0.3, 200 * 10**9
"""What Ray takes for the object store: a share of the memory, so many bytes at most."""

SHARED_MEMORY = Path("/dev/shm")
STORE_OF_SHARED_MEMORY = 0.95


@dataclass(frozen=True)
class Declared:
    """What a user says of machines that are not at hand; None is looked up or measured here.

    Args:
        gpus: in the whole cluster.
        gpu_memory: bytes of each.
        flops: floating-point operations a second that a GPU really attains, or without any GPU one
            core.
    """

    gpus: float | None = None
    gpu_memory: int | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Hardware:
    """The devices that a run is planned for.

    Args:
        num_cpus: logical CPUs of this machine: those that Ray and threads are dealt from.
        memory: bytes of this machine, or of the container.
        num_gpus: in the cluster.
        gpu_memory: bytes of each, 0 without one.
        flops: declared speed (see ``Declared``), None to measure it.
        store: bytes of the object store.
    """

    num_cpus: int
    memory: int
    num_gpus: float
    gpu_memory: int
    flops: float | None = None
    store: int = 0

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
        host = host_memory()
        return cls(num_cpus(), host, gpus, memory or 0, declared.flops, object_store(host))


def host_memory() -> int:
    """Bytes that processes may take here: the machine's, or fewer in a container."""
    limits = [path.read_text().strip() for path in MEMORY_LIMITS if path.is_file()]
    allowed = [int(limit) for limit in limits if limit.isdecimal()]  # "max" is no limit
    return min([psutil.virtual_memory().total, *allowed])


def object_store(memory: int) -> int:
    """Bytes of the store that Ray makes in shared memory.

    Source: Ray 2.60, ``ray._private.utils.resolve_object_store_memory``.
    """
    size = min(int(STORE_SHARE * memory), STORE_MOST)
    if not SHARED_MEMORY.is_dir():
        return size
    shared = psutil.disk_usage(str(SHARED_MEMORY)).total
    return min(size, int(STORE_OF_SHARED_MEMORY * shared))


def flops_of(hardware: Hardware, dtype: torch.dtype, width: int, threads: int) -> float:
    """Operations a second of one process for a model of this width: declared, or measured.

    Args:
        hardware: what there is.
        dtype: of the weights.
        width: of the hidden states.
        threads: of a CPU; 0 is a GPU.

    Raises:
        ValueError: a GPU that is not here, and no speed was declared.
    """
    if threads:
        declared = None if hardware.num_gpus else hardware.flops
        one = measured_flops(dtype, width, "cpu") if declared is None else declared
        return one * cores(threads)
    if hardware.flops is not None:
        return hardware.flops
    if not torch.cuda.is_available():
        raise ValueError(
            "no GPU is here to measure; declare what one attains: --device-speed 3e14 (an H100 in "
            "bfloat16 reaches about 40 % of 1e15)"
        )
    return measured_flops(dtype, width, "cuda")


def cores(threads: int) -> float:
    """Cores that so many threads are worth.

    Threads beyond the physical cores add nothing. A virtual machine may show hyperthreads as cores,
    so what is left is measured.
    """
    most = min(threads, physical_cores())
    return gain_of_threads(most) if most > 1 else 1.0


def physical_cores() -> int:
    """Cores that this process may use, hyperthreads not counted."""
    allowed = len(psutil.Process().cpu_affinity()) if hasattr(os, "sched_getaffinity") else None
    found = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return min(found, allowed or found)


@lru_cache
def gain_of_threads(threads: int) -> float:
    """How much more than one thread so many do together, from 1 to their number.

    Two hyperthreads of a core each need twice the processor's time for the same product.
    """
    left, right = torch.rand(1024, 1024), torch.rand(1024, 1024)
    alone, together = (
        _quickest(lambda: torch.mm(left, right), on_cpu=True, threads=n) for n in (1, threads)
    )
    return min(float(threads), max(1.0, threads * alone / together))


@lru_cache
def measured_flops(dtype: torch.dtype, width: int, device: str) -> float:
    """Of a GPU or of one thread, in products as a linear layer makes them."""
    rows, on_cpu = MEASURED_ROWS[device], device == "cpu"
    left = torch.rand(rows, width, device=device).to(dtype)
    right = torch.rand(3 * width, width, device=device).to(dtype)

    def multiply() -> None:
        torch.nn.functional.linear(left, right)
        if not on_cpu:
            torch.cuda.synchronize()

    return 2 * rows * width * 3 * width / _quickest(multiply, on_cpu=on_cpu)


@lru_cache
def seconds_per_entry(columns: int) -> float:
    """Seconds that a log-softmax and its backward pass take one core for an entry of a table."""
    rows = max(1, 2**22 // columns)
    leaf = torch.zeros(rows, columns, requires_grad=True)

    def compare() -> None:
        table = leaf.log_softmax(-1)
        table.backward(table.detach())

    return _quickest(compare, on_cpu=True) / (rows * columns)


def _quickest(work: Callable[[], object], *, on_cpu: bool, threads: int = 1) -> float:
    """Seconds of the quickest repetition after the first.

    On a CPU those of the processor, summed over the threads: others may keep it busy meanwhile.
    """
    clock = time.process_time if on_cpu else time.perf_counter
    before = torch.get_num_threads()
    seconds: list[float] = []
    torch.set_num_threads(threads)
    try:
        work()
        while len(seconds) < REPEATS and sum(seconds) < PATIENCE_S:
            start = clock()
            work()
            seconds.append(clock() - start)
    finally:
        torch.set_num_threads(before)
    return min(seconds)
