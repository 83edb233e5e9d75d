"""Methods with parameters of their own under ZeRO-3, where every document must reach them.

ZeRO-3 gathers a module's parameters on all ranks together, so a rank may not leave a module out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.config.deepspeed import zero_stage
from orchestrator.config.faults import FaultsConfig
from orchestrator.config.mixture import MixtureConfig, scheme_name
from orchestrator.config.problems import Problem
from orchestrator.config.teacher import TeacherConfig


def whole_modules_problems(
    mixture: MixtureConfig,
    teachers: Sequence[TeacherConfig],
    deepspeed: Mapping[str, Any],
    faults: FaultsConfig,
) -> Iterator[Problem]:
    """Methods that train parameters where some documents do not go to their teacher."""
    cause = _keeps_documents_away(mixture, faults)
    if cause is None or zero_stage(deepspeed) != 3:
        return
    for index, teacher in enumerate(teachers):
        for place, entry in enumerate(teacher.methods):
            if entry.method.trains_modules:
                yield Problem(
                    ("teachers", index, "methods", place),
                    f"{entry.name} trains parameters of its own, which under ZeRO-3 every document "
                    f"must reach, but {cause} keeps some from a teacher; expected "
                    f"deepspeed.zero_optimization.stage up to 2, or no {cause}",
                )


def _keeps_documents_away(mixture: MixtureConfig, faults: FaultsConfig) -> str | None:
    if mixture.routing is not None:
        return "mixture.routing"
    if faults.teacher_lost == "drop":
        return "faults.teacher_lost: drop"
    return "mixture.weights: select" if scheme_name(mixture.weights) == "select" else None
