"""How long a step takes: the slowest of those who work at the same time."""

from collections.abc import Mapping
from dataclasses import dataclass

READING = 0.5
"""Of the speed of one matrix product, what a whole forward pass attains: norms, attention and
copies come between the products (measured: docs/planning.md)."""

TRAINING = 0.35
"""The same of a forward and a backward pass."""

LOSS_PASSES = 4
"""Log-softmaxes with backward pass that a loss on whole distributions takes (``make bench``: kl and
the top-k methods take 4 to 6)."""


@dataclass(frozen=True)
class Worker:
    """What a teacher or the student does in a step; replicas and ranks work at the same time.

    Args:
        seconds: of a step, if it had its devices to itself.
        shares: by device, the part of it that is busy all the while: with two of four cores 0.5.
    """

    seconds: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class StepTime:
    """A step with prefetch.

    Args:
        seconds: of a step.
        alone: of each process alone.
        binds: what the step waits for: a process, or a device that several share.
    """

    seconds: float
    alone: Mapping[str, float]
    binds: str


def step_time(workers: Mapping[str, Worker]) -> StepTime:
    """Teachers work ahead, so a step takes as long as its slowest process or its busiest device.

    >>> both = {"a": Worker(1.0, {"cpu": 0.5}), "student": Worker(2.0, {"cpu": 0.5})}
    >>> step_time(both).seconds, step_time(both).binds
    (2.0, 'student')
    >>> step_time({n: Worker(w.seconds, {"gpu": 1.0}) for n, w in both.items()}).seconds
    3.0
    """
    alone = {name: worker.seconds for name, worker in workers.items()}
    busy: dict[str, float] = {}
    for worker in workers.values():
        for device, share in worker.shares.items():
            busy[device] = busy.get(device, 0.0) + worker.seconds * share
    slowest = max(alone, key=lambda name: alone[name])
    device = max(busy, key=lambda name: busy[name])
    if busy[device] > alone[slowest]:
        sharing = [name for name, worker in workers.items() if worker.shares.get(device)]
        return StepTime(busy[device], alone, f"{device}, shared by {', '.join(sharing)}")
    return StepTime(alone[slowest], alone, slowest)
