"""Which weights speak for each model of a run, told without loading them."""

from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.model_identity import model_identity
from orchestrator.sources import cache_path, student_source, teacher_source
from teachers.signal_cache.cache import read_manifest


def teacher_identities(config: RunConfig) -> dict[str, str]:
    """By teacher's name."""
    return {teacher.name: _identity(config, teacher) for teacher in config.teachers}


def student_identity(config: RunConfig) -> str:
    """That of ``student.init``."""
    return model_identity(student_source(config.student))


def _identity(config: RunConfig, teacher: TeacherConfig) -> str:
    """A server tells no more of its weights than their name; a cache tells whose signals it has."""
    if teacher.server is not None:
        return f"served as {teacher.model}"
    if teacher.path is not None:
        return f"signals of {read_manifest(cache_path(teacher)).teacher.weights}"
    return model_identity(teacher_source(teacher, config.student))
