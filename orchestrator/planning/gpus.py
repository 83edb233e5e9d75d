"""Which processes share a GPU, and whether they fit on it together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.limits import Limit
from orchestrator.planning.processes import ProcessPlan

CONTEXT = 2**29
"""Bytes of a GPU that CUDA takes for each process on it (usual; not measured here)."""

GRAIN = 1e-4
"""Ray counts GPUs in such units."""


@dataclass(frozen=True)
class Layout:
    """Whose processes are on each GPU.

    Args:
        on: by GPU, the names of its processes, one entry a process.
        missing: GPUs that are asked for beyond those there are.
        in_turns: only one of them is on the GPU at a time.
    """

    on: tuple[tuple[str, ...], ...]
    missing: float = 0.0
    in_turns: bool = False

    def of(self, name: str) -> dict[str, int]:
        """How many processes of this name each GPU has."""
        found = {gpu_name(index): names.count(name) for index, names in enumerate(self.on)}
        return {gpu: count for gpu, count in found.items() if count}


def gpu_name(index: int) -> str:
    """In words."""
    return f"GPU {index}"


def lay_out(
    processes: Mapping[str, ProcessPlan], num_gpus: float, *, in_turns: bool = False
) -> Layout:
    """Each process in the first GPU with room for its fraction, or on GPUs of its own.

    All in one with ``in_turns``.
    """
    if in_turns:
        names = [name for name, process in processes.items() if process.gpus]
        return Layout((tuple(names),) if names else (), in_turns=True)
    free = [1.0] * int(num_gpus)
    on: list[list[str]] = [[] for _ in free]
    missing = 0.0
    for name, process in processes.items():
        for _ in range(process.count if process.gpus else 0):
            chosen = _places(process.gpus, free)
            missing += 0.0 if chosen else process.gpus
            for index in chosen:
                free[index] -= min(1.0, process.gpus)
                on[index].append(name)
    return Layout(tuple(map(tuple, on)), missing)


def _places(gpus: float, free: Sequence[float]) -> list[int]:
    needed = min(1.0, gpus) - GRAIN
    open_to_it = [index for index, left in enumerate(free) if left >= needed]
    count = max(1, int(gpus))
    return open_to_it[:count] if len(open_to_it) >= count else []


def gpu_limits(
    layout: Layout, processes: Mapping[str, ProcessPlan], memory: int
) -> Iterator[tuple[Limit, tuple[str, ...]]]:
    """Each GPU that is used, with the names of its processes; those alike come once.

    Args:
        layout: who is where.
        processes: by name.
        memory: bytes of a GPU.
    """
    seen: dict[tuple[str, ...], list[int]] = {}
    for index, names in enumerate(layout.on):
        if names:
            seen.setdefault(names, []).append(index)
    for names, indices in seen.items():
        peaks = [processes[name].memory.peak for name in names]
        needed = max(peaks) if layout.in_turns else sum(peaks)
        more = f" and {len(indices) - 1} like it" if len(indices) > 1 else ""
        turns = ", in turns" if layout.in_turns else ""
        title = f"{gpu_name(indices[0])}{more} ({' + '.join(names)}{turns})"
        yield Limit(title, needed + CONTEXT * len(names), memory), names
