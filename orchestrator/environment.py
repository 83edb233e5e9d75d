"""What a run would find on this machine: versions, CPUs, CUDA devices, cache folder."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Environment:
    """Versions (null: not installed) and hardware."""

    tutelage: str | None
    python: str
    platform: str
    torch: str | None
    transformers: str | None
    ray: str | None
    deepspeed: str | None
    num_cpus: int
    cuda: str | None
    cuda_devices: tuple[str, ...]
    cache_folder: str


def environment() -> Environment:
    """Look at this machine; imports torch to ask for CUDA devices."""
    import torch

    from orchestrator.assets import cache_folder

    count = torch.cuda.device_count()
    return Environment(
        tutelage=_version("tutelage"),
        python=platform.python_version(),
        platform=platform.platform(),
        torch=_version("torch"),
        transformers=_version("transformers"),
        ray=_version("ray"),
        deepspeed=_version("deepspeed"),
        num_cpus=num_cpus(),
        cuda=torch.version.cuda,
        cuda_devices=tuple(torch.cuda.get_device_name(index) for index in range(count)),
        cache_folder=str(cache_folder()),
    )


def num_cpus() -> int:
    """CPUs that this process may use, which a container or ``taskset`` can limit."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
