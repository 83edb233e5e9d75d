"""What a run reads before any weight is loaded: tokenizers, documents, and whether they fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from losses.base import Pair
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.data import Prepared, load_documents, prepare
from orchestrator.errors import ConfigError
from orchestrator.specs import student_source, teacher_source
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Setup:
    """Tokenizers (the student's first) and the documents that all of them read exactly."""

    tokenizers: tuple[Tokenizer, ...]
    train: Prepared
    held_out: Prepared


def set_up(config: RunConfig) -> Setup:
    """Load tokenizers and documents, and check every method on its pair of vocabularies.

    Raises:
        ConfigError: something does not fit; names its place in the run file.
    """
    student = _tokenizer("student.init", student_source(config.student), "student", None)
    teachers = [
        _tokenizer(f"teachers.{t.name}.model", teacher_source(t), t.name, t.start_token)
        for t in config.teachers
    ]
    for index, (teacher, tokenizer) in enumerate(zip(config.teachers, teachers, strict=True)):
        _check_methods(index, teacher, Pair(student.vocabulary, tokenizer.vocabulary))
    tokenizers = (student, *teachers)
    length = config.data.max_length
    train = load_documents(config.data.train, config.data.train_limit)
    held_out = load_documents(config.data.held_out, config.data.held_out_limit)
    return Setup(
        tokenizers=tokenizers,
        train=prepare(train, tokenizers, length),
        held_out=prepare(held_out, tokenizers, length),
    )


def _tokenizer(place: str, source: ModelSource, name: str, start: str | None) -> Tokenizer:
    try:
        return Tokenizer.load(source, name, start)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{place}: cannot load the tokenizer of {source.path}: {error}"
        ) from error


def _check_methods(index: int, teacher: TeacherConfig, pair: Pair) -> None:
    for place, entry in enumerate(teacher.methods):
        try:
            entry.method.check(pair)
        except ValueError as error:
            raise ConfigError(
                f"teachers[{index}] ({teacher.name}).methods[{place}] ({entry.name}): {error}"
            ) from error


def describe(prepared: Prepared, names: Sequence[str]) -> str:
    """One line on some documents: how many, how long, and what was cut or left out."""
    left_out = {name: prepared.quarantined[name] for name in names if prepared.quarantined[name]}
    text = f"{len(prepared.documents)} documents, {prepared.num_scored_bytes:,} scored bytes"
    if prepared.num_cut:
        text += f", {prepared.num_cut} cut to length"
    if prepared.num_unscored:
        text += f", {prepared.num_unscored} left out: nothing scored within max_length"
    if left_out:
        text += f", left out by tokenizer: {left_out}"
    return text
