"""Turns on one GPU beside the other parts of the run file: what does not go together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.config.deepspeed import zero_stage
from orchestrator.config.problems import Problem
from orchestrator.config.resources import ClusterConfig
from orchestrator.config.student import StudentConfig
from orchestrator.config.teacher import TeacherConfig
from orchestrator.config.training import TrainConfig


def offload_problems(
    cluster: ClusterConfig,
    student: StudentConfig,
    teachers: Sequence[TeacherConfig],
    train: TrainConfig,
    deepspeed: Mapping[str, Any],
) -> Iterator[Problem]:
    """What ``resources.offload`` does not allow."""
    if not cluster.offload:
        return
    several = [t for t in teachers if t.resources.replicas > 1 or (t.resources.gpus or 0) > 1]
    wrong = {
        "student.num_ranks = 1: the turns are those of one GPU": student.num_ranks > 1,
        "a stage of ZeRO up to 2": zero_stage(deepspeed) == 3,
        "train.prefetch_bytes null: train.prefetch says how many steps are one turn": (
            train.prefetch_bytes is not None
        ),
        "teachers with one replica and one GPU at most": bool(several),
    }
    for expected, is_wrong in wrong.items():
        if is_wrong:
            yield Problem(("resources", "offload"), f"true needs {expected}")
