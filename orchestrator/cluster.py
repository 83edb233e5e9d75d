"""Ray itself: start it or join it, and share out what the machine has."""

import logging
import math
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from tenacity import retry, retry_if_exception_message, stop_after_attempt

from orchestrator.config import Resources, RunConfig
from orchestrator.environment import num_cpus
from orchestrator.errors import ResourcesError

WORKER_VARIABLES = {
    # glibc would give each tensor of some megabytes back to the system and fetch its pages anew,
    # one by one: a tenth of a training step on a CPU. (32 MiB is the largest threshold it takes.)
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    # Threads that spin while they wait slow every other process of a shared CPU down.
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


ANSWER_S = 20.0
"""Seconds in which a named cluster must take a connection."""


@dataclass(frozen=True)
class Machine:
    """What the processes share out.

    Args:
        num_cpus: cores of this machine, or of a cluster's largest node: no process spans two.
        num_gpus: in the whole cluster.
    """

    num_cpus: int
    num_gpus: float


@contextmanager
def running(config: RunConfig) -> Iterator[Machine]:
    """Join the cluster that is named, or run Ray here: on loopback, without dashboard.

    Workers run in a new empty folder: Ray puts the driver's folder first on their import path,
    and a user's own ``losses/`` there would shadow ours.

    Raises:
        ResourcesError: nobody answers at the address, or the cluster has fewer CPUs than the actors
            ask for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would start workers ahead that no actor can use: each has an environment of its own.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    address = cluster_address(config)
    if address is not None:
        _check_answers(address)
    with tempfile.TemporaryDirectory(prefix="tutelage-") as empty:
        _start_ray(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"working_dir": empty, "env_vars": WORKER_VARIABLES},
            **(_local_options(config) if address is None else {"address": address}),
        )
        try:
            yield _machine(config, local=address is None)
        finally:
            ray.shutdown()


def cluster_address(config: RunConfig) -> str | None:
    """``resources.address``, or else ``RAY_ADDRESS``; None is this machine alone.

    As in Ray, an empty ``RAY_ADDRESS`` names nothing, ``local`` is this machine, and ``auto`` is
    what ``RAY_ADDRESS`` names before it is a Ray that is found here.
    """
    asked, variable = config.resources.address, os.environ.get("RAY_ADDRESS")
    address = variable or asked if asked in (None, "auto") else asked
    return None if address in ("", "local") else address


def _check_answers(address: str) -> None:
    """Look whether anybody listens there: Ray itself tries for many minutes, without a word."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # ``auto``, or a form that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise ResourcesError(
            f"no Ray answers at {address} ({error}); expected resources.address, or RAY_ADDRESS, "
            "to be host:port of a node that runs it (ray start --head)"
        ) from error


@retry(
    retry=retry_if_exception_message(match=".*timed out during startup"),
    stop=stop_after_attempt(3),
    reraise=True,
)
def _start_ray(**options: Any) -> None:
    """``ray.init``, again if it was late: it gives itself 30 s, too few on a busy machine."""
    ray.init(**options)


def _local_options(config: RunConfig) -> dict[str, Any]:
    """On one machine the actors share its cores, however few there are.

    Without ``address`` Ray would join whatever ``ray start`` left on this machine.
    """
    return {
        "address": "local",
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "num_cpus": math.ceil(max(num_cpus(), cpus_asked(config))),
    }


def _machine(config: RunConfig, *, local: bool) -> Machine:
    total, asked = ray.cluster_resources(), cpus_asked(config)
    if total.get("CPU", 0) < asked:
        raise ResourcesError(
            f"the actors ask for {asked:g} CPUs in all, the cluster has {total.get('CPU', 0):g}; "
            "lower resources.cpus of the student or of teachers"
        )
    cpus = num_cpus() if local else max(1, int(max(map(_cpus_of, ray.nodes()))))
    return Machine(num_cpus=cpus, num_gpus=total.get("GPU", 0.0))


def _cpus_of(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("CPU", 0.0)) if node["Alive"] else 0.0


def cpus_asked(config: RunConfig) -> float:
    """CPUs of all actors together."""
    teachers = sum(t.resources.cpus * t.resources.replicas for t in config.teacher_actors)
    return float(teachers + config.student.num_ranks * config.student.resources.cpus)


def fair_gpus(resources: Resources, device: str, config: RunConfig, machine: Machine) -> float:
    """GPUs of one actor: as asked for, or a share of what is left (0 without a GPU).

    With at least one GPU for each actor everyone gets a whole one; on fewer they share.

    Raises:
        ResourcesError: a GPU is asked for and there is none.
    """
    asked = resources.gpus
    nothing_there = asked is None and not machine.num_gpus and device == "auto"
    if device == "cpu" or asked == 0 or nothing_there:
        return 0.0
    if not machine.num_gpus:
        raise ResourcesError(
            "a GPU is asked for (resources.gpus or device: cuda), but Ray sees none"
        )
    return _share(config, machine) if asked is None else float(asked)


def _share(config: RunConfig, machine: Machine) -> float:
    """GPUs of each actor that leaves it open: a part of one GPU never spans two."""
    student = config.student
    actors: list[tuple[Resources, str, int]] = [
        (t.resources, t.device, t.resources.replicas) for t in config.teacher_actors
    ]
    actors.append((student.resources, student.device, student.num_ranks))
    left = machine.num_gpus - sum(r.gpus * count for r, _, count in actors if r.gpus)
    sharing = sum(count for r, device, count in actors if r.gpus is None and device != "cpu")
    if left <= 0:
        raise ResourcesError(
            f"resources.gpus asks for all of the {machine.num_gpus:g} GPUs, and {sharing} "
            "processes that do not say how many are left without; expected fractions, a number "
            "for each, or device: cpu"
        )
    if left >= sharing:
        return 1.0
    if left < 1:
        return int(100 * left / sharing) / 100
    return int(100 / math.ceil(sharing / int(left))) / 100
