"""Ray itself: start it or join it, and share out what the machine has."""

import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from tenacity import retry, retry_if_exception_message, stop_after_attempt

from orchestrator.config import Resources, RunConfig
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


@dataclass(frozen=True)
class Machine:
    """What the cluster has in all."""

    num_cpus: int
    num_gpus: float


@contextmanager
def running(config: RunConfig) -> Iterator[Machine]:
    """Join the cluster that is named, or run Ray here: on loopback, without dashboard.

    ``resources.address`` names it, or else ``RAY_ADDRESS``.

    Workers run in a new empty folder: Ray puts the driver's folder first on their import path,
    and a user's own ``losses/`` there would shadow ours.

    Raises:
        ResourcesError: a cluster has fewer CPUs than the actors ask for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would start workers ahead that no actor can use: each has an environment of its own.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    address = config.resources.address
    local = address is None and "RAY_ADDRESS" not in os.environ
    with tempfile.TemporaryDirectory(prefix="tutelage-") as empty:
        _start_ray(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"working_dir": empty, "env_vars": WORKER_VARIABLES},
            **(_local_options(config) if local else {"address": address}),
        )
        try:
            yield _machine(config, local=local)
        finally:
            ray.shutdown()


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
        "num_cpus": math.ceil(max(os.cpu_count() or 1, cpus_asked(config))),
    }


def _machine(config: RunConfig, *, local: bool) -> Machine:
    total, asked = ray.cluster_resources(), cpus_asked(config)
    if total.get("CPU", 0) < asked:
        raise ResourcesError(
            f"the actors ask for {asked:g} CPUs in all, the cluster has {total.get('CPU', 0):g}; "
            "lower resources.cpus of the student or of teachers"
        )
    cpus = (os.cpu_count() or 1) if local else int(total["CPU"])
    return Machine(num_cpus=cpus, num_gpus=total.get("GPU", 0.0))


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
    if device == "cpu" or (asked is None and not machine.num_gpus and device == "auto"):
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
