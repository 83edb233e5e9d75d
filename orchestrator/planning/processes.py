"""One process of a run: what it holds, what it computes, and the device that it does so on."""

from collections.abc import Mapping
from dataclasses import dataclass

from losses.needs import Need
from orchestrator.cluster import Machine
from orchestrator.config.method import MethodConfig
from orchestrator.planning.hardware import Hardware, cores, seconds_per_entry
from orchestrator.planning.memory import Memory
from orchestrator.planning.skeleton import Sizes
from orchestrator.planning.workload import Reading
from orchestrator.setup import Setup

CPU = "CPU"


@dataclass(frozen=True)
class ProcessPlan:
    """A teacher's replica, or a rank of the student.

    Args:
        count: how many are alike.
        gpus: of each; 0 runs on the CPU, a fraction shares a GPU.
        threads: of each on a CPU.
        sizes: of its model; None without one.
        memory: of each on its device (on each of its GPUs), without what Python and its packages
            take.
        host: bytes of each in main memory beside that: what waits there for its turn on the GPU,
            or what DeepSpeed keeps there.
        flops: of each in a step.
        seconds: of a step, if it had its device to itself; 0 where that is not known.
    """

    count: int
    gpus: float
    threads: int
    sizes: Sizes | None
    memory: Memory
    host: int
    flops: float
    seconds: float

    @property
    def device(self) -> str:
        """Where each runs, in words."""
        return f"{self.gpus:g} GPU" if self.gpus else CPU


@dataclass(frozen=True)
class Planned:
    """What every part of a plan reads."""

    setup: Setup
    readings: Mapping[str, Reading]
    hardware: Hardware

    @property
    def machine(self) -> Machine:
        """The same as the run sees it."""
        return Machine(self.hardware.num_cpus, self.hardware.num_gpus)


def compares_tables(entry: MethodConfig) -> bool:
    """True if the loss reads whole distributions, which costs the student passes over them."""
    return bool(entry.method.needs & {Need.TOP_K, Need.DISTRIBUTIONS})


def makes_tables(entry: MethodConfig) -> bool:
    """True if the signal is made of whole distributions, not of hidden states alone."""
    method = entry.method
    return bool(method.reads & {Need.TOP_K, Need.DISTRIBUTIONS}) or method.needs_distributions


def table_seconds(entries: float, vocabulary: int, threads: int) -> float:
    """Of log-softmaxes over so many entries; on a GPU they hide behind the products."""
    return entries * seconds_per_entry(vocabulary) / cores(threads) if threads else 0.0
