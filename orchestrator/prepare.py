"""``tutelage prepare``: build W for every teacher, and say what each kind of loss would make of it.

Where a run reads W⁻, which has the roles swapped, that is built, and W is not. The
numbers come from the vocabularies alone, and from the training text where it is there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from losses.alignment.coverage import Coverage, Occurrences, measure_coverage
from losses.alignment.projection import ProjectionOptions
from losses.alignment.tokens import Tokens
from losses.document import Document
from orchestrator.config import RunConfig
from orchestrator.projections import (
    projection_folder,
    projection_key,
    projection_of,
    reads_reverse,
)
from orchestrator.references import find_references, how_to_fetch, refuse
from orchestrator.setup import STUDENT, load_tokenizers, read_split
from teachers.tokenizer import Tokenizer

MOST_BYTES = 5_000_000
"""Of the training text no more is counted."""


@dataclass(frozen=True)
class PreparedPair:
    """The student and one teacher.

    Args:
        teacher: the teacher's name.
        is_reverse: it is W⁻: its rows are the teacher's tokens, which ``coverage`` then calls the
            student's, and the reverse.
        folder: where W lies.
        num_entries: weights in W.
        coverage: W by classes of tokens, and of the training text if it is there.
    """

    teacher: str
    is_reverse: bool
    folder: Path
    num_entries: int
    coverage: Coverage


def prepare(config: RunConfig) -> Iterator[PreparedPair]:
    """Build or find W of each teacher, in the run file's order.

    Raises:
        ConfigError: a model's tokenizer is not there or cannot be used; names its place.
    """
    found = find_references(config)
    missing = [how_to_fetch(r) for r in found.unfetched if not r.place.startswith("data.")]
    refuse([*(p for p in found.problems if not p.startswith("data.")), *missing])
    tokenizers, _ = load_tokenizers(config)
    student = tokenizers[STUDENT]
    left_out = {r.place for r in found.unfetched} | {p.split(":")[0] for p in found.problems}
    text = first_documents(read_split(config, "train", left_out))
    for teacher in config.teachers:
        pair = (student, tokenizers[teacher.name])
        reverse = reads_reverse(teacher, config)
        sides = pair[::-1] if reverse else pair
        prepared = prepare_pair(*sides, teacher.projection.options, text)
        yield replace(prepared, teacher=teacher.name, is_reverse=reverse)


def prepare_pair(
    source: Tokenizer, target: Tokenizer, options: ProjectionOptions, text: Sequence[Document]
) -> PreparedPair:
    """Build or find one W from the source's tokens to the target's, and measure it."""
    projection = projection_of(source, target, options)
    seen = Occurrences(count_tokens(source, text), count_tokens(target, text))
    return PreparedPair(
        teacher=target.name,
        is_reverse=False,
        folder=projection_folder(projection_key(source, target, options)),
        num_entries=len(projection.weights),
        coverage=measure_coverage(source.vocabulary, target.vocabulary, projection, seen),
    )


def first_documents(documents: Sequence[Document]) -> Sequence[Document]:
    """As many as hold ``MOST_BYTES``."""
    sizes = np.cumsum([len(document.content) for document in documents])
    return documents[: int(np.searchsorted(sizes, MOST_BYTES)) + 1]


def count_tokens(tokenizer: Tokenizer, text: Sequence[Document]) -> Int64[np.ndarray, "id"]:
    """How often each token stands for scored bytes; documents it cannot read do not count."""
    counts = np.zeros(len(tokenizer.vocabulary), dtype=np.int64)
    for document, view in zip(text, tokenizer.read(text), strict=True):
        if isinstance(view, Tokens):
            ids = view.ids[view.scored(document.scored)]
            counts += np.bincount(ids, minlength=len(counts))
    return counts
