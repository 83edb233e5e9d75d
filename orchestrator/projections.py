"""The projection W of a student's and a teacher's tokenizer: built once, kept in the cache folder.

It is found again by the fingerprints of both vocabularies, the rules by which the tokenizers cut a
text, and the options, so a changed tokenizer never meets an old W.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from losses.alignment.projection import Projection, ProjectionKey, ProjectionOptions
from losses.alignment.projection_build import build_projection
from orchestrator.assets import cache_folder
from orchestrator.atomic import atomic_folder
from orchestrator.config import RunConfig
from orchestrator.config.method import MethodConfig
from orchestrator.config.teacher import TeacherConfig
from teachers.inside import encode_inside
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def needed_projections(
    config: RunConfig, student: Tokenizer, teachers: Mapping[str, Tokenizer]
) -> dict[str, Projection]:
    """W of each teacher that feeds a method which reads it, by the teacher's name.

    Where targets are combined in the student's vocabulary it is W⁻, which has the roles swapped.
    """
    found = {}
    for teacher in config.teachers:
        if any(reads_projection(entry, config) for entry in teacher.methods):
            pair = (student, teachers[teacher.name])
            reverse = reads_reverse(teacher, config)
            if not reverse or not _one_vocabulary(*pair):
                sides = pair[::-1] if reverse else pair
                found[teacher.name] = projection_of(*sides, teacher.projection.options)
    return found


def reads_reverse(teacher: TeacherConfig, config: RunConfig) -> bool:
    """True if it is W⁻ that the teacher's methods read."""
    ensemble = config.mixture.ensemble is not None
    return ensemble and any(reads_projection(entry, config) for entry in teacher.methods)


def reads_projection(entry: MethodConfig, config: RunConfig) -> bool:
    """True if the method reads W, or W⁻ where targets are combined."""
    if config.mixture.ensemble:
        return entry.name == "kl"
    return entry.method.needs_projection


def _one_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    return one.vocabulary.ids_fingerprint == other.vocabulary.ids_fingerprint


def projection_of(student: Tokenizer, teacher: Tokenizer, options: ProjectionOptions) -> Projection:
    """W from the cache folder; if it is not there, it is built and put there."""
    key = projection_key(student, teacher, options)
    folder = projection_folder(key)
    if folder.is_dir():
        return Projection.load(folder, key)
    log.info("building the projection of %s onto %s", student.name, teacher.name)
    projection = build_projection(
        student.vocabulary,
        teacher.vocabulary,
        partial(encode_inside, teacher),
        options,
        partial(encode_inside, student),
    )
    try:
        with atomic_folder(folder) as partial_folder:
            projection.save(partial_folder, key)
    except FileExistsError:
        return Projection.load(folder, key)  # another process was quicker
    return projection


def projection_key(
    student: Tokenizer, teacher: Tokenizer, options: ProjectionOptions
) -> ProjectionKey:
    """What W depends on."""
    return ProjectionKey(
        student=student.vocabulary.fingerprint,
        teacher=teacher.vocabulary.fingerprint,
        cutting=teacher.cutting + student.cutting,
        options=options,
    )


def projection_folder(key: ProjectionKey) -> Path:
    """Where a W lies in the cache folder."""
    digest = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()
    return cache_folder() / "projections" / digest[:16]
