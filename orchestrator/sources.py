"""From a reference in the run file to the folder or hub id that a model is loaded from."""

from pathlib import Path

from orchestrator.assets import resolve
from orchestrator.config import StudentConfig, TeacherConfig
from orchestrator.errors import ConfigError
from teachers.source import ModelSource


def model_path(reference: str) -> str:
    """The absolute folder a model reference names, or the hub id itself.

    Raises:
        ConfigError: it looks like a path, but there is no such folder.
    """
    if reference.startswith("asset:"):
        return str(resolve(reference))
    path = Path(reference).expanduser()
    if path.is_dir():
        return str(path.absolute())
    looks_local = reference.startswith((".", "/", "~")) or reference.count("/") > 1
    if path.is_file():
        raise ConfigError(f"model {reference} is a file; expected a folder with config.json")
    if looks_local:
        raise ConfigError(f"model folder {reference} does not exist")
    return reference


def teacher_source(teacher: TeacherConfig, student: StudentConfig) -> ModelSource:
    """Where the teacher comes from; one of kind ``self`` is the student's whole ``init``."""
    own = teacher.model is None
    return ModelSource(
        path=model_path(teacher.model or student.init),
        revision=student.revision if own else teacher.revision,
        trust_remote_code=teacher.trust_remote_code,
        dtype=teacher.dtype,
        options=dict(teacher.model_options),
        template=teacher.template,
        packing=teacher.packing,
    )


def student_source(student: StudentConfig) -> ModelSource:
    """Where the student starts from."""
    return ModelSource(
        path=model_path(student.init),
        revision=student.revision,
        dtype=student.dtype,
        options=dict(student.model_options),
        template=student.template,
        packing=student.packing,
    )
