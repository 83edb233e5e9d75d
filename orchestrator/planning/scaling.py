"""Scale on paper: many teachers of some size, a student, nodes; who binds, replicas needed.

A table of made-up clusters from the formulas of the plan: costs of a decoder from its number of
parameters, bytes of signals from the methods themselves. ``docs/scaling.md`` is made of it, and
``benchmarks/simulate.py`` holds it against the real stream.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from losses.base import Method
from orchestrator.planning.signal_sizes import Speaker, bytes_per_token

DECODERS = {
    "1B": (1.2e9, 2048, 128_256),
    "3B": (3.2e9, 3072, 128_256),
    "8B": (8.0e9, 4096, 128_256),
    "32B": (32.8e9, 5120, 151_936),
    "70B": (70.6e9, 8192, 128_256),
}
"""Parameters, width of hidden states and rows of the vocabulary of common sizes."""

WEIGHT = 2
"""Bytes of a weight in bfloat16."""

STATE = 16
"""Bytes that training holds for each parameter: weight, gradient, master weight, two moments."""


@dataclass(frozen=True)
class Cluster:
    """What there is.

    Args:
        nodes: machines.
        gpus: of each node.
        gpu_memory: bytes of each.
        flops: operations a second that a GPU really attains.
        nic: bytes a second that a node sends or receives.
        store: bytes a second that a node's object store takes in or gives out in all.
        copy: bytes a second at which one process reads signals and unpacks them.
    """

    nodes: int
    gpus: int = 8
    gpu_memory: float = 80e9
    flops: float = 4e14
    nic: float = 5e10
    store: float = 1e10
    copy: float = 1.2e9

    @property
    def num_gpus(self) -> int:
        """In all."""
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Job:
    """What is trained.

    Args:
        teachers: how many.
        teacher: their size, a name of ``DECODERS``.
        student: the student's size.
        bytes_per_token: of a teacher's signals, fields only.
        tokens: of a step, in all documents.
        length: tokens of a document.
        ranks: GPUs that the student trains on.
        heads: terms a teacher whose method puts the teacher's head on its hidden states.
    """

    teachers: int
    teacher: str
    student: str
    bytes_per_token: float
    tokens: int = 262_144
    length: int = 2048
    ranks: int = 8
    heads: int = 1


@dataclass(frozen=True)
class Forecast:
    """What becomes of a job on a cluster.

    Args:
        seconds: of a step, by who would bind alone: ``student``, ``teachers`` (with the replicas
            that are needed or that there is room for), ``nic``, ``store``, ``unpacking``.
        replicas: of each teacher, so that the student does not wait for it.
        gpus_per_replica: that hold one teacher's weights.
        replicas_placed: of each teacher that the cluster has room for beside the student.
        wire: bytes a second into the student's nodes while it does not wait.
    """

    seconds: Mapping[str, float]
    replicas: int
    gpus_per_replica: int
    replicas_placed: int
    wire: float

    @property
    def binds(self) -> str:
        """Who makes the step as long as it is."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.seconds[self.binds]

    @property
    def fits(self) -> bool:
        """True if every teacher has a replica at least."""
        return self.replicas_placed > 0


def forecast(job: Job, cluster: Cluster) -> Forecast:
    """Who binds, and the replicas that each teacher needs.

    >>> found = forecast(Job(2, "8B", "1B", 12.0, heads=0), Cluster(nodes=2))
    >>> found.binds, found.replicas, found.gpus_per_replica
    ('teachers', 18, 1)
    """
    student = train_seconds(job, cluster)
    per_replica = gpus_for(job.teacher, cluster)
    one = read_seconds(job, cluster, per_replica)
    replicas = max(1, math.ceil(one / student))
    free = cluster.num_gpus - job.ranks
    placed = min(replicas, max(0, free) // (per_replica * job.teachers))
    size = job.teachers * job.tokens * job.bytes_per_token
    nodes = max(1, math.ceil(job.ranks / cluster.gpus))
    away = 1 - nodes / cluster.nodes  # teachers beside the student need no network
    seconds = {
        "student": student,
        "teachers": one / placed if placed else math.inf,
        "nic": away * size / (nodes * cluster.nic),
        "store": size / (nodes * cluster.store),
        "unpacking": size / (job.ranks * cluster.copy),
    }
    return Forecast(seconds, replicas, per_replica, placed, away * size / student / nodes)


def train_seconds(job: Job, cluster: Cluster) -> float:
    """Of a step of the student: 6 operations a parameter and token, and the teachers' heads."""
    parameters, _, _ = DECODERS[job.student]
    _, width, vocabulary = DECODERS[job.teacher]
    rows = 2 * width * vocabulary * job.teachers * job.heads
    return job.tokens * (6 * parameters + rows) / (job.ranks * cluster.flops)


def read_seconds(job: Job, cluster: Cluster, gpus: int) -> float:
    """Of one replica of a teacher for all documents of a step."""
    parameters, _, _ = DECODERS[job.teacher]
    return job.tokens * 2 * parameters / (gpus * cluster.flops)


def gpus_for(name: str, cluster: Cluster, spare: float = 0.7) -> int:
    """GPUs that hold a frozen model in bfloat16 and leave room for a pass."""
    needed = DECODERS[name][0] * WEIGHT
    return max(1, math.ceil(needed / (cluster.gpu_memory * spare)))


def ranks_for(name: str, cluster: Cluster, spare: float = 0.7) -> int:
    """GPUs over which ZeRO-3 spreads a student's weights, gradients and optimizer, a power of 2."""
    needed = DECODERS[name][0] * STATE
    return 1 << math.ceil(math.log2(max(1.0, needed / (cluster.gpu_memory * spare))))


def signal_bytes(method: Method, teacher: str, text: float = 4.0) -> float:
    """Bytes of a method's signals for each token of a teacher of this size in bfloat16.

    Args:
        method: with its options.
        teacher: a name of ``DECODERS``.
        text: bytes of text that a token stands for.
    """
    _, width, vocabulary = DECODERS[teacher]
    return bytes_per_token(method, Speaker(vocabulary, width, torch.bfloat16, text))
