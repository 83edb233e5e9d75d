"""Who waits for whom: what each teacher's process says of its own time, as metrics.

A teacher that is idle waits for the student, or for the room that ``train.prefetch`` leaves it; a
student that waits (``teacher/NAME/wait_s``) waits for that teacher.
"""

import logging
from collections.abc import Mapping
from statistics import mean
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.replicas import references_of
from teachers.stopwatch import Worked

log = logging.getLogger(__name__)


def work_metrics(answers: Mapping[str, Any]) -> dict[str, float]:
    """``busy_s`` and ``idle_s`` of each teacher, as far as they are known by now.

    Args:
        answers: what ``worked`` gave, by teacher; of replicas the mean counts, and a teacher
            inside the student's ranks has no time of its own.
    """
    found: dict[str, float] = {}
    for name, answer in answers.items():
        told = [worked for reference in references_of(answer) for worked in _told(reference)]
        for warning in (text for worked in told for text in worked.warnings):
            log.warning("%s", warning)
        if told:
            found[f"teacher/{name}/busy_s"] = mean(worked.busy_s for worked in told)
            found[f"teacher/{name}/idle_s"] = mean(worked.idle_s for worked in told)
    return found


def _told(reference: Any) -> list[Worked]:
    """The answer; none of a process that was lost, whose loss others must judge, or is late."""
    ready, _ = ray.wait([reference], timeout=0)
    try:
        return [ray.get(one) for one in ready]
    except RayError:
        return []
