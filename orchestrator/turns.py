"""Teachers and student that take turns on one GPU: ``resources.offload``."""

from collections.abc import Mapping
from typing import Any

from orchestrator.cluster import Machine, fair_gpus
from orchestrator.config import RunConfig
from orchestrator.in_turn import InTurn, Turns


def take_turns(
    config: RunConfig, machine: Machine, teachers: Mapping[str, Any], students: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Handles of processes that share one device; the student was built on it.

    Args:
        config: the run file; ``resources.offload`` allows one rank and no replicas.
        machine: tells whether there is a GPU.
        teachers: the actors of the teachers that have a process, by name.
        students: the rank.
    """
    turns, by_name = Turns(), {t.name: t for t in config.teacher_actors}
    device = _device(fair_gpus(config.student.resources, config.student.device, config, machine))
    ranks: dict[str, Any] = {n: InTurn(handle, device, turns) for n, handle in students.items()}
    for rank in ranks.values():
        turns.begin(rank)
    others: dict[str, Any] = {}
    for name, handle in teachers.items():
        teacher = by_name[name]
        gpus = fair_gpus(teacher.resources, teacher.device, config, machine)
        others[name] = InTurn(handle, _device(gpus), turns)
    return others, ranks


def _device(gpus: float) -> str:
    return "cuda" if gpus else "cpu"
