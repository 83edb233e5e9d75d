"""The tokenizer that a run's student has: that of its ``init``, or the one it is given."""

from dataclasses import replace
from pathlib import Path

from orchestrator.config import StudentConfig
from orchestrator.errors import ConfigError
from orchestrator.references import TOKENIZER_PLACE
from orchestrator.sources import model_path, student_source
from orchestrator.student.embeddings.options import BYTES
from orchestrator.student.new_tokenizer import NewTokenizer
from orchestrator.student.special_roles import pair_specials
from teachers.tokenizer import Tokenizer


def new_tokenizer(student: StudentConfig) -> NewTokenizer | None:
    """What the student is given; None if it keeps its own.

    Raises:
        ConfigError: it looks like a path, but there is no such folder.
    """
    if not student.transfers or student.tokenizer is None:
        return None
    reference = student.tokenizer if student.tokenizer == BYTES else model_path(student.tokenizer)
    options = student.embeddings.options
    if options.hypernetwork is not None:  # the processes of a run have folders of their own
        folder = Path(options.hypernetwork).expanduser().absolute()
        options = replace(options, hypernetwork=str(folder))
    return NewTokenizer(reference, options)


def student_tokenizer(student: StudentConfig, own: Tokenizer, warnings: list[str]) -> Tokenizer:
    """The tokenizer that the student is trained with.

    Args:
        student: its part of the run file.
        own: the tokenizer of its ``init``.
        warnings: what a new tokenizer loses is added here.

    Raises:
        ConfigError: the new tokenizer cannot be loaded or used.
    """
    try:
        new = new_tokenizer(student)
        if new is None:
            return own
        _check_hypernetwork(new.options.hypernetwork, own)
        found = new.load(student_source(student), own)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{TOKENIZER_PLACE}: the student cannot get the tokenizer {student.tokenizer}: {error}"
        ) from error
    found.max_tokens, found.hidden_size = own.max_tokens, own.hidden_size
    warnings += [f"{TOKENIZER_PLACE}: {text}" for text in pair_specials(own, found).warnings]
    return found


def _check_hypernetwork(folder: str | None, own: Tokenizer) -> None:
    """Open it, so that a run does not end at a wrong one after its teachers have started."""
    if folder is not None:
        from orchestrator.hypernetwork.trained import TrainedHypernetwork

        TrainedHypernetwork.load(Path(folder)).check_tokenizer(own)
