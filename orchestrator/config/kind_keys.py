"""Which keys of a teacher's entry belong to which kind."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.config.cache_teacher import cache_problems
from orchestrator.config.problems import Problem
from orchestrator.config.server import listing_problems

if TYPE_CHECKING:
    from orchestrator.config.teacher import TeacherConfig

MODEL_RULE = "a folder, a hub id or asset:NAME"

ONLY_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "share_weights": ("self",),
        "refresh": ("self",),
        "server": ("openai",),
        "tokenizer": ("openai",),
        "model_parity": ("openai", "cache"),
        "packing": ("hf", "self", "cache"),
        "model_options": ("hf", "self", "cache"),
        "path": ("cache",),
        "parity_tolerance": ("cache",),
        "record": ("hf", "self", "openai"),
    }
)
"""Kinds that take a key; all others refuse it."""

NEEDED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "hf": {"model": MODEL_RULE},
        "openai": {
            "model": "the name that the server knows the model by",
            "server": "a mapping with the server's url",
            "tokenizer": f"that of the served model: {MODEL_RULE}",
        },
        "cache": {"path": "a folder that tutelage capture or the key record wrote"},
    }
)
"""Keys that a kind cannot do without, and what they take."""


def kind_problems(teacher: "TeacherConfig") -> Iterator[Problem]:
    """Keys that this kind of teacher lacks or does not take."""
    for key, expected in NEEDED.get(teacher.kind, {}).items():
        if getattr(teacher, key) is None:
            yield Problem((key,), f"missing; expected {expected}")
    for key, kinds in ONLY_OF.items():
        if teacher.kind not in kinds and getattr(teacher, key):
            yield Problem(
                (key,), f"only a teacher of kind {' or '.join(kinds)} takes it; leave it out"
            )
    if teacher.kind == "self":
        yield from _of_the_student(teacher)
    yield from cache_problems(teacher)
    if teacher.server is not None:
        yield from listing_problems(teacher.server, teacher.methods)


def _of_the_student(teacher: "TeacherConfig") -> Iterator[Problem]:
    for key in ("model", "revision", "trust_remote_code"):
        if getattr(teacher, key):
            yield Problem((key,), "a teacher of kind self is the student's own init; leave it out")
    if teacher.share_weights and teacher.refresh is not None:
        yield Problem(
            ("share_weights",), "the shared teacher never changes; leave it or refresh out"
        )
