"""Starting actors and waiting for them: no wait without an end, no error without a name."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from orchestrator.cluster import WORKER_VARIABLES, Machine, fair_gpus
from orchestrator.config import Resources, RunConfig
from orchestrator.errors import ResourcesError, WorkerLost
from orchestrator.student.spec import StudentSpec
from orchestrator.student.worker import StudentWorker
from teachers.actor import TeacherActor, TeacherSpec


def start_teachers(
    specs: Sequence[TeacherSpec], config: RunConfig, machine: Machine
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One actor a teacher, by name, and the references of their loading, which goes on."""
    actors: dict[str, Any] = {}
    for spec, teacher in zip(specs, config.teacher_actors, strict=True):
        gpus = fair_gpus(teacher.resources, teacher.device, config, machine)
        options = _options(teacher.resources, gpus, spec.threads)
        actors[spec.name] = ray.remote(TeacherActor).options(**options).remote()
    loading = {spec.name: actors[spec.name].build.remote(spec) for spec in specs}
    return actors, loading


def start_students(
    spec: StudentSpec, config: RunConfig, machine: Machine, run_folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One actor a rank (``student/0``, …) and the references of their loading.

    Rank 0 chooses the port where they meet.
    """
    gpus = fair_gpus(config.student.resources, config.student.device, config, machine)
    options = _options(config.student.resources, gpus, spec.threads)
    actors: dict[str, Any] = {
        f"student/{rank}": ray.remote(StudentWorker).options(**options).remote(rank, run_folder)
        for rank in range(config.student.num_ranks)
    }
    first = next(iter(actors))
    asked = {first: actors[first].address.remote()}
    address = collect(asked, config.train.timeout_s, "starting")[first]
    return actors, {name: actor.build.remote(spec, address) for name, actor in actors.items()}


def collect(references: Mapping[str, Any], timeout_s: float, doing: str) -> dict[str, Any]:
    """Wait for named answers; the first failure is raised as soon as it is known.

    Args:
        references: what to wait for, by the name of who answers.
        timeout_s: seconds in which all must have answered.
        doing: what they do, for messages: "training step 3".

    Raises:
        WorkerLost: someone died, or did not answer in time.
        ResourcesError: the machine ran out of memory.
        Exception: an actor's own error, as it was raised there.
    """
    names = {reference: name for name, reference in references.items()}
    pending, answers = list(references.values()), {}
    while pending:
        ready, pending = ray.wait(pending, num_returns=1, timeout=timeout_s)
        if not ready:
            late = ", ".join(names[reference] for reference in pending)
            raise WorkerLost(
                f"{late}: no answer for {timeout_s:g} s while {doing}; "
                "raise train.timeout_s if it is only slow"
            )
        answers[names[ready[0]]] = _answer(ready[0], names[ready[0]], doing)
    return {name: answers[name] for name in references}


def kill(actors: Iterable[Any]) -> None:
    """Stop actors at once and free what they held."""
    for actor in actors:
        ray.kill(actor)


def _answer(reference: Any, name: str, doing: str) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise root_cause(error) from error
    except OutOfMemoryError as error:
        raise ResourcesError(
            f"the machine ran out of memory while {name} was {doing}; lower train.micro_batch, "
            "data.max_length or a teacher's token_budget, or close other programs"
        ) from error
    except RayActorError as error:
        raise WorkerLost(f"{name} died while {doing}: {error}") from error


def root_cause(error: RayTaskError) -> Exception:
    """The error that was raised in the actor, without Ray's wrapping."""
    cause: Exception = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, Exception):
        cause = cause.cause
    return cause


def _options(resources: Resources, gpus: float, threads: int) -> dict[str, Any]:
    variables = WORKER_VARIABLES | {"OMP_NUM_THREADS": str(threads)}
    return {
        "num_cpus": resources.cpus,
        "num_gpus": gpus,
        "runtime_env": {"env_vars": variables},
    }
