"""Teachers of kind ``self`` beside their student: what does not go together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.config.deepspeed import zero_stage
from orchestrator.config.mixture import MixtureConfig
from orchestrator.config.problems import Problem
from orchestrator.config.resources import TeacherResources
from orchestrator.config.student import StudentConfig
from orchestrator.config.teacher import TeacherConfig


def self_problems(
    student: StudentConfig,
    teachers: Sequence[TeacherConfig],
    mixture: MixtureConfig,
    deepspeed: Mapping[str, Any],
) -> Iterator[Problem]:
    """What is wrong with ``share_weights`` and ``refresh``."""
    for index, teacher in enumerate(teachers):
        if teacher.share_weights:
            texts = [*_sharing(teacher, student), *_elsewhere(mixture, deepspeed)]
            yield from (Problem(("teachers", index, "share_weights"), text) for text in texts)
        if teacher.refresh is not None:
            texts = list(_refreshing(student))
            yield from (Problem(("teachers", index, "refresh"), text) for text in texts)
    for key in ("share_weights", "refresh"):
        asked = [index for index, teacher in enumerate(teachers) if getattr(teacher, key)]
        for index in asked[1:]:
            yield Problem(("teachers", index, key), "another teacher has it; expected one at most")


def _sharing(teacher: TeacherConfig, student: StudentConfig) -> Iterator[str]:
    if student.lora is None:
        yield (
            "true needs student.lora: without adapters training changes the weights themselves; "
            "expected false, or student.lora"
        )
    if student.keep_layers is not None or student.drop_layers is not None:
        yield (
            "true with a student that lacks layers of its init: no whole model is there to share; "
            "expected false, or neither student.keep_layers nor student.drop_layers"
        )
    for key in ("dtype", "packing", "model_options"):
        if getattr(teacher, key) != getattr(student, key):
            yield f"true shares the student's weights; expected {key} as in student.{key}"
    if teacher.device != "auto" or teacher.threads or teacher.resources != TeacherResources():
        yield (
            "true lets the teacher run in the student's process; leave its device, threads and "
            "resources out"
        )


def _elsewhere(mixture: MixtureConfig, deepspeed: Mapping[str, Any]) -> Iterator[str]:
    if zero_stage(deepspeed) == 3:
        yield (
            "true under ZeRO-3 is not in this release; expected false, or "
            "deepspeed.zero_optimization.stage up to 2"
        )
    if mixture.routing is not None:
        yield "true with mixture.routing is not in this release; expected false"


def _refreshing(student: StudentConfig) -> Iterator[str]:
    if student.transfers:
        yield (
            "a mean of the student's weights has the student's tokenizer, but student.tokenizer "
            "differs from student.init; expected null (the original model)"
        )
    if student.lora is not None:
        yield "refresh with student.lora is not in this release; expected null"
