"""Exposure bias of a student against a teacher, whatever their tokenizers.

Both models go on from the same prompts. Both then read all texts, as bytes: so the student's
error at a byte is known after its own words and after the teacher's.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from losses.alignment.tokens import Tokens
from losses.byte_distributions import Converter
from losses.document import Document, text_document
from orchestrator.exposure_bias.curve import Curve, exposure_bias
from orchestrator.exposure_bias.errors import next_byte_errors
from teachers.backends.transformers import LanguageModel
from teachers.byte_reading import next_bytes
from teachers.sampling import Sampling, continuations
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """The two models and how their distributions become distributions of the next byte."""

    student: LanguageModel
    teacher: LanguageModel
    converter: Converter
    token_budget: int = 4096

    def can_read(self, document: Document) -> bool:
        """True if both tokenizers read the text exactly, and it is not too long for a model."""
        return all(_reads(model.tokenizer, document) for model in (self.student, self.teacher))

    def errors(
        self, texts: Sequence[Document | None], starts: Sequence[int], length: int
    ) -> Float64[np.ndarray, "text length"]:
        """The student's error at ``length`` bytes of each text from its start on.

        NaN where the text is absent or has ended.
        """
        errors = np.full((len(texts), length), np.nan)
        rows = [index for index, text in enumerate(texts) if text is not None]
        documents = [text for text in texts if text is not None]
        teacher = next_bytes(self.teacher, documents, self.converter, self.token_budget)
        student = next_bytes(self.student, documents, self.converter, self.token_budget)
        for row, theirs, ours in zip(rows, teacher, student, strict=True):
            errors[row] = next_byte_errors(theirs, ours, starts[row], length)
        return errors


def _reads(tokenizer: Tokenizer, document: Document) -> bool:
    [view] = tokenizer.read([document])
    longest = tokenizer.max_tokens
    return isinstance(view, Tokens) and (longest is None or len(view) <= longest)


def measure(models: Models, prompts: Sequence[str], sampling: Sampling) -> Curve:
    """The curve up to ``sampling.num_bytes`` bytes after the prompts.

    Both models draw with the same seed, so a student that is its own teacher writes the same texts.

    Raises:
        ValueError: hardly any text can be read.
    """
    starts = [len(prompt.encode()) for prompt in prompts]
    student_errors, teacher_errors = (
        models.errors(_readable(models, model, prompts, sampling), starts, sampling.num_bytes)
        for model in (models.student, models.teacher)
    )
    return exposure_bias(student_errors, teacher_errors, sampling.seed)


def _readable(
    models: Models, writer: LanguageModel, prompts: Sequence[str], sampling: Sampling
) -> list[Document | None]:
    """The writer's texts; None for one that a model cannot read, see ``Models.can_read``."""
    texts = _written(writer, prompts, sampling)
    found = [text if models.can_read(text) else None for text in texts]
    if lost := found.count(None):
        name = writer.tokenizer.name
        log.warning("%d of %d texts of %s cannot be read by both models", lost, len(found), name)
    return found


def _written(model: LanguageModel, prompts: Sequence[str], sampling: Sampling) -> list[Document]:
    """Each prompt and what the model writes after it, up to what is no UTF-8."""
    contents = continuations(model, prompts, sampling)
    return [
        text_document(f"text {index} of {model.tokenizer.name}", prompt + whole_text(content))
        for index, (prompt, content) in enumerate(zip(prompts, contents, strict=True))
    ]


def whole_text(content: bytes) -> str:
    r"""The text up to the first byte that is no UTF-8.

    >>> whole_text("né".encode()), whole_text("né".encode()[:2]), whole_text(b"n\xffe")
    ('né', 'n', 'n')
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return content[: error.start].decode()
