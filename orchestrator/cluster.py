"""Ray: start it, place the actors, and nothing else. The only module that sets resources."""

import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from orchestrator.config import Resources, RunConfig
from orchestrator.errors import ResourcesError
from orchestrator.student.worker import StudentSpec, StudentWorker
from teachers.actor import TeacherActor, TeacherSpec

WORKER_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True)
class Machine:
    """What the cluster has in all."""

    num_cpus: int
    num_gpus: float


def start(config: RunConfig) -> Machine:
    """Connect to ``RAY_ADDRESS``, or start Ray on this machine, on loopback, without dashboard.

    Workers run in a new empty folder: Ray puts the driver's folder first on their import path,
    and a user's own ``losses/`` there would shadow ours.

    Raises:
        ResourcesError: a cluster has fewer CPUs than the actors ask for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = "RAY_ADDRESS" not in os.environ
    asked = cpus_asked(config)
    options: dict[str, Any] = {}
    if local:  # one machine: actors share its cores, however few
        num_cpus = math.ceil(max(os.cpu_count() or 1, asked))
        options = {
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "num_cpus": num_cpus,
        }
    ray.init(
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={
            "working_dir": tempfile.mkdtemp(prefix="tutelage-"),
            "env_vars": WORKER_VARIABLES,
        },
        **options,
    )
    total = ray.cluster_resources()
    if total.get("CPU", 0) < asked:
        raise ResourcesError(
            f"the actors ask for {asked} CPUs in all, the cluster has {total.get('CPU', 0)}"
        )
    cpus = (os.cpu_count() or 1) if local else int(total["CPU"])
    return Machine(num_cpus=cpus, num_gpus=total.get("GPU", 0.0))


def cpus_asked(config: RunConfig) -> float:
    """CPUs of all actors together."""
    teachers = sum(teacher.resources.cpus for teacher in config.teachers)
    return float(teachers + config.student.num_ranks * config.student.resources.cpus)


def stop() -> None:
    """Disconnect, and stop Ray if ``start`` started it."""
    ray.shutdown()


def start_teachers(specs: Sequence[TeacherSpec], config: RunConfig, machine: Machine) -> list[Any]:
    """One actor a teacher; they load their models at once, side by side."""
    actors: list[Any] = []
    for spec, teacher in zip(specs, config.teachers, strict=True):
        gpus = fair_gpus(teacher.resources, teacher.device, config, machine)
        options = _options(spec.name, teacher.resources, gpus, spec.threads)
        actors.append(ray.remote(TeacherActor).options(**options).remote(spec))
    return actors


def start_students(
    spec: StudentSpec, config: RunConfig, machine: Machine, run_folder: Path
) -> list[Any]:
    """One actor a student rank; rank 0 chooses the port where they meet."""
    gpus = fair_gpus(config.student.resources, config.student.device, config, machine)
    actors: list[Any] = []
    for rank in range(config.student.num_ranks):
        options = _options(f"student/{rank}", config.student.resources, gpus, spec.threads)
        actors.append(ray.remote(StudentWorker).options(**options).remote(rank, run_folder))
    address = ray.get(actors[0].address.remote())
    ray.get([actor.build.remote(spec, address) for actor in actors])
    return actors


def kill(actors: Sequence[Any]) -> None:
    """Stop actors at once and free what they held."""
    for actor in actors:
        ray.kill(actor)


def fair_gpus(resources: Resources, device: str, config: RunConfig, machine: Machine) -> float:
    """GPUs of one actor: as asked for, or a share of what there is (0 without a GPU).

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
    if asked is not None:
        return float(asked)
    num_actors = len(config.teachers) + config.student.num_ranks
    return min(1.0, int(100 * machine.num_gpus / num_actors) / 100)


def _options(name: str, resources: Resources, gpus: float, threads: int) -> Mapping[str, Any]:
    variables = WORKER_VARIABLES | {"OMP_NUM_THREADS": str(threads)}
    return {
        "num_cpus": resources.cpus,
        "num_gpus": gpus,
        "runtime_env": {"env_vars": variables},
        "max_concurrency": 1,
    }
