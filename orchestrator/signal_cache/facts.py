"""What a run's live teacher is asked, as the manifest of a signal cache says it."""

from collections.abc import Iterator
from typing import Any

from orchestrator.checkpoint import describe_documents
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.environment import environment
from orchestrator.setup import Setup
from orchestrator.signal_cache.check import choices_of
from teachers.actor import TeacherSpec
from teachers.signal_cache.manifest import (
    FORMAT,
    LOOSE,
    GroupingFacts,
    Manifest,
    TeacherFacts,
    TextFacts,
    TokenizerFacts,
    described,
    differences,
)
from teachers.tokenizer import Tokenizer


def manifest_of(
    spec: TeacherSpec, config: RunConfig, setup: Setup, files: dict[str, str]
) -> Manifest:
    """The manifest of what this teacher says in this run.

    Args:
        spec: what the teacher is built from.
        config: the run.
        setup: its tokenizers and documents.
        files: SHA-256 of the tokenizer's files in the cache, by their path there.
    """
    teacher = teacher_of(config, spec.name)
    tokenizer = tokenizer_of(setup, spec.name)
    return Manifest(
        format=FORMAT,
        written_by=f"tutelage {environment().tutelage}",
        teacher=TeacherFacts(
            name=teacher.name,
            kind=teacher.kind,
            model=teacher.model,
            weights=setup.models[teacher.name],
            tokenizer=tokenizer.fingerprint,
            methods=tuple(described(method) for method in spec.methods),
            asks=spec.asks,
            **choices_of(teacher),
        ),
        grouping=grouping_of(spec, config),
        data=text_of(config, setup),
        tokenizer=TokenizerFacts(
            max_tokens=tokenizer.max_tokens, hidden_size=tokenizer.hidden_size, files=files
        ),
    )


def grouping_of(spec: TeacherSpec, config: RunConfig) -> GroupingFacts:
    """Which documents are asked for together."""
    teacher = teacher_of(config, spec.name)
    return GroupingFacts(
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        num_ranks=config.student.num_ranks,
        token_budget=spec.token_budget,
        packing=teacher.packing,
        device=spec.device,
    )


def text_of(config: RunConfig, setup: Setup) -> TextFacts:
    """The text of a run as its manifest describes it."""
    return TextFacts(
        train=describe_documents(setup.train.documents),
        held_out=describe_documents(setup.held_out.documents),
        max_length=config.data.max_length,
        student_tokenizer=setup.tokenizers[0].fingerprint,
    )


def teacher_of(config: RunConfig, name: str) -> TeacherConfig:
    """The teacher of this name in the run file."""
    return next(teacher for teacher in config.teachers if teacher.name == name)


def tokenizer_of(setup: Setup, name: str) -> Tokenizer:
    """The tokenizer that a teacher reads with."""
    return next(tokenizer for tokenizer in setup.tokenizers if tokenizer.name == name)


def manifest_differences(cached: Manifest, asked: Manifest) -> Iterator[str]:
    """Why what a run would write does not belong into a folder, key by key."""
    sections = (
        ("teacher", LOOSE, cached.teacher, asked.teacher),
        ("grouping", (), cached.grouping, asked.grouping),
        ("data", (), cached.data, asked.data),
    )
    for name, loose, before, now in sections:
        ours, theirs = before.model_dump(mode="json"), now.model_dump(mode="json")
        for line in differences(_without(ours, loose), _without(theirs, loose)):
            yield f"{name}.{line}"


def _without(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}
