"""Starting actors and waiting for them: no wait without an end, no error without a name."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from orchestrator.cluster import WORKER_VARIABLES
from orchestrator.config import RunConfig
from orchestrator.errors import (
    RankLost,
    ResourcesError,
    SilentRank,
    SilentTeacher,
    TeacherLost,
    TrainingDiverged,
    WorkerLost,
)
from orchestrator.placement import Placement
from orchestrator.replicas import Replicas, joined, processes, references_of
from orchestrator.run_logs import STUDENT, is_rank
from orchestrator.student.spec import StudentSpec
from orchestrator.student.worker import StudentWorker
from teachers.actor import TeacherActor, TeacherSpec

PEER_S = 10.0
"""Seconds in which the death of a rank must be known once another rank missed it."""


def start_teachers(
    specs: Sequence[TeacherSpec], config: RunConfig, placement: Placement
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A handle a teacher, by name, and the references of their loading, which goes on.

    Ray starts a process that died again, as often as ``faults`` says, and asks it the same again.
    """
    actors: dict[str, Any] = {}
    replicas = {teacher.name: teacher.resources.replicas for teacher in config.teacher_actors}
    again = {"max_restarts": config.faults.max_restarts, "max_task_retries": -1}
    for spec in specs:
        places = [placement.teacher(spec.name, i) for i in range(replicas[spec.name])]
        options = again | _environment(spec.threads)
        made = [ray.remote(TeacherActor).options(**p, **options).remote(spec) for p in places]
        actors[spec.name] = made[0] if len(made) == 1 else Replicas(made)
    loading = {spec.name: actors[spec.name].ready.remote() for spec in specs}
    return actors, loading


def start_students(
    spec: StudentSpec, config: RunConfig, placement: Placement, run_folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One actor a rank (``student/0``, …) and the references of their loading.

    Rank 0 chooses the port where they meet.
    """
    actors: dict[str, Any] = {
        f"{STUDENT}/{rank}": ray.remote(StudentWorker)
        .options(**placement.rank(rank), **_environment(spec.threads))
        .remote(rank, run_folder)
        for rank in range(config.student.num_ranks)
    }
    first = next(iter(actors))
    asked = {first: actors[first].address.remote()}
    address = collect(asked, config.train.timeout_s, "starting")[first]
    return actors, {name: actor.build.remote(spec, address) for name, actor in actors.items()}


def collect(references: Mapping[str, Any], timeout_s: float, doing: str) -> dict[str, Any]:
    """Wait for named answers; the first failure is raised as soon as it is known.

    Args:
        references: what to wait for, by the name of who answers; one that replicas share is
            answered once all of them have.
        timeout_s: seconds in which all must have answered.
        doing: what they do, for messages: "training step 3".

    Raises:
        TeacherLost: a teacher died for good, did not answer in time, or cannot reach its server.
        RankLost: a student rank died.
        SilentRank: a student rank did not answer in time.
        ResourcesError: the machine ran out of memory.
        Exception: an actor's own error, as it was raised there.
    """
    names = {one: name for name, answer in references.items() for one in references_of(answer)}
    pending, answers = list(names), {}
    while pending:
        ready, pending = ray.wait(pending, num_returns=1, timeout=timeout_s)
        if not ready:
            raise _late([names[reference] for reference in pending], timeout_s, doing)
        answers[ready[0]] = _answer(ready[0], names[ready[0]], doing, pending, names)
    return {name: joined(answer, answers) for name, answer in references.items()}


def _late(names: Sequence[str], timeout_s: float, doing: str) -> WorkerLost:
    late = tuple(dict.fromkeys(names))
    text = (
        f"{', '.join(late)}: no answer for {timeout_s:g} s while {doing}; raise train.timeout_s if "
        "it is only slow"
    )
    ranks = tuple(filter(is_rank, late))
    return SilentRank(text, ranks) if ranks else SilentTeacher(text)


def kill(handles: Iterable[Any]) -> None:
    """Stop the actors behind these handles at once and free what they held."""
    for handle in handles:
        for actor in processes(handle):
            ray.kill(actor)


def _answer(
    reference: Any, name: str, doing: str, others: Sequence[Any], names: Mapping[Any, str]
) -> Any:
    """One answer; ``others`` are still awaited, and one of them may be why this one failed."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = root_cause(error)
        if is_rank(name) and _may_lack_a_peer(cause):
            _raise_if_dead([other for other in others if is_rank(names[other])], names, doing)
        if isinstance(cause, RayActorError):  # of whoever made what this one was given
            raise TeacherLost(f"a teacher died while {name} was {doing}: {cause}") from error
        if isinstance(cause, ConnectionError) and not is_rank(name):
            raise TeacherLost(f"{cause} (while {doing})") from error
        if isinstance(cause, MemoryError):
            raise ResourcesError(str(cause)) from error
        raise cause from error
    except OutOfMemoryError as error:
        raise ResourcesError(
            f"the machine ran out of memory while {name} was {doing}; lower train.micro_batch, "
            "data.max_length or a teacher's token_budget, or close other programs"
        ) from error
    except RayActorError as error:
        raise lost(name, doing, error) from error


def loaded(references: Mapping[str, Any], timeout_s: float) -> None:
    """Wait until all have their models; what one raised while it was built is raised as it is.

    Later such an error is that of a process that could not start again: it counts as lost.

    Raises:
        WorkerLost: see ``collect``.
        Exception: an actor's own error.
    """
    try:
        collect(references, timeout_s, "loading its model")
    except WorkerLost as error:
        if isinstance(died := error.__cause__, RayActorError) and (own := cause_of_death(died)):
            raise own from error
        raise


def lost(name: str, doing: str, error: RayActorError) -> WorkerLost:
    """What to raise when a process is gone for good."""
    kind = RankLost if is_rank(name) else TeacherLost
    own = cause_of_death(error)
    return kind(f"{name} died while {doing}: {error if own is None else own}")


def cause_of_death(error: RayActorError) -> Exception | None:
    """The error that an actor raised while it was built; None if it died in another way."""
    cause = error.args[0] if error.args else None
    if error.actor_init_failed and isinstance(cause, RayTaskError):
        return root_cause(cause)
    return None


def _may_lack_a_peer(error: Exception) -> bool:
    """True for what a rank's collective raises when another rank is gone."""
    ours = (ResourcesError, TrainingDiverged, WorkerLost)
    return isinstance(error, RuntimeError) and not isinstance(error, ours)


def _raise_if_dead(others: Sequence[Any], names: Mapping[Any, str], doing: str) -> None:
    """Name the rank whose death made another one fail.

    Raises:
        RankLost: it is known within ``PEER_S``.
    """
    waiting = list(others)
    deadline = time.monotonic() + PEER_S
    while waiting and (left := deadline - time.monotonic()) > 0:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        for reference in ready:
            try:
                ray.get(reference)
            except RayActorError as error:
                raise lost(names[reference], doing, error) from error
            except RayTaskError:
                continue  # it lacks the same peer


def root_cause(error: RayTaskError) -> Exception:
    """The error that was raised in the actor, without Ray's wrapping."""
    cause: Exception = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, Exception):
        cause = cause.cause
    return cause


def _environment(threads: int) -> dict[str, Any]:
    variables = WORKER_VARIABLES | {"OMP_NUM_THREADS": str(threads)}
    return {"runtime_env": {"env_vars": variables}}
