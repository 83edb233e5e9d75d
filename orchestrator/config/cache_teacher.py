"""Teachers whose signals lie on a disk, and those that are recorded: what does not go together."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.problems import Problem

if TYPE_CHECKING:
    from orchestrator.config.teacher import TeacherConfig


def cache_problems(teacher: "TeacherConfig") -> Iterator[Problem]:
    """What is wrong with the keys of a cache, and with ``record``."""
    if teacher.record is not None and (teacher.refresh is not None or teacher.share_weights):
        yield Problem(
            ("record",),
            "a teacher that follows the student, or shares its weights, cannot be recorded; "
            "expected null",
        )
    if teacher.kind != "cache":
        return
    if teacher.device != "cpu":
        yield Problem(("device",), "a teacher of kind cache runs no model; leave it out")
    if teacher.model_parity is None and teacher.parity_tolerance is not None:
        yield Problem(("parity_tolerance",), "without model_parity it has no effect; leave it out")
    if teacher.model_parity is not None and teacher.model_parity.endswith(".safetensors"):
        yield Problem(
            ("model_parity",), "a cache is compared with a model; expected a folder or id"
        )


def record_problems(teachers: Sequence["TeacherConfig"], output_dir: Path) -> Iterator[Problem]:
    """Folders that are recorded into and are something else in the same run.

    Args:
        teachers: of the run.
        output_dir: of the run.
    """
    taken = {_absolute(output_dir): "output_dir"}
    taken |= {_absolute(t.path): f"the path of teacher {t.name}" for t in teachers if t.path}
    for place, teacher in enumerate(teachers):
        if teacher.record is None:
            continue
        folder = _absolute(teacher.record)
        if folder in taken:
            yield Problem(
                ("teachers", place, "record"),
                f"{teacher.record} is {taken[folder]} as well; expected a folder of its own",
            )
        taken[folder] = f"the record of teacher {teacher.name}"


def _absolute(folder: str | Path) -> Path:
    return Path(folder).expanduser().absolute()
