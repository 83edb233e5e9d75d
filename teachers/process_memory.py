"""The most memory that a process took, above what it had after its imports."""

import resource
import sys
from dataclasses import dataclass, field

import psutil
import torch

_UNIT = 1 if sys.platform == "darwin" else 1024
"""What ``ru_maxrss`` counts in."""


@dataclass(frozen=True)
class Peak:
    """Bytes at the worst moment: of main memory above the baseline, and of the GPU."""

    host: int
    gpu: int


def _resident() -> int:
    found: int = psutil.Process().memory_info().rss
    return found


@dataclass(frozen=True)
class ProcessMemory:
    """Made after the imports, asked later."""

    baseline: int = field(default_factory=_resident)

    def peak(self) -> Peak:
        """Since the process started."""
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
        gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else 0
        return Peak(max(0, most - self.baseline), gpu)
