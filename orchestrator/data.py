"""Documents from JSONL files, cut to length, and the order in which steps use them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from losses.alignment.tokens import Tokens
from losses.document import Document
from orchestrator.assets import resolve
from orchestrator.cutting import cut_to_length
from orchestrator.errors import ConfigError
from orchestrator.routing import Routing
from orchestrator.rows import read_row
from teachers.tokenizer import Tokenizer, UnfaithfulTokenizer


def data_path(reference: str) -> Path:
    """The file a run file's ``data`` entry names: a path or ``asset:NAME``."""
    return resolve(reference) if reference.startswith("asset:") else Path(reference).absolute()


def load_documents(
    references: Sequence[str], limit: int | None = None, routing: Routing | None = None
) -> list[Document]:
    """The rows of the files, in order; of each file only the first ``limit``, if set.

    A row is ``{"text"}`` (every byte scored), ``{"prompt", "completion"}`` (only the completion
    scored) or ``{"messages"}`` (only what the assistant says and the ends of its turns). Empty
    rows are refused: they would count as documents and teach nothing. ``routing`` says which
    teachers each of them goes to.

    Raises:
        ConfigError: a file is missing, or a row is not of a known form; names file and line.
    """
    rows = (islice(_read(reference, routing), limit) for reference in references)
    return list(chain.from_iterable(rows))


def _read(reference: str, routing: Routing | None) -> Iterator[Document]:
    path = data_path(reference)
    if not path.is_file():
        raise ConfigError(f"data file {reference} does not exist ({path})")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield read_row(line, f"{reference}:{number}", routing)


@dataclass(frozen=True)
class Prepared:
    """Documents that every tokenizer reads exactly, and what happened to the others.

    Args:
        documents: within the length, with something scored.
        num_cut: how many of them were cut to the length.
        num_unscored: left out because nothing scored is left of them within the length.
        reasons: tokenizer name -> why it cannot read documents exactly -> how many were left out.
        straddling: tokenizer name -> tokens that cover scored bytes but count nowhere, because
            they cover something else as well.
        longest: tokenizer name -> tokens of the longest document.
    """

    documents: tuple[Document, ...]
    num_cut: int
    num_unscored: int
    reasons: dict[str, dict[str, int]]
    straddling: dict[str, int]
    longest: dict[str, int]

    @property
    def quarantined(self) -> dict[str, int]:
        """Tokenizer name -> documents left out because it cannot read them exactly."""
        return {name: sum(counts.values()) for name, counts in self.reasons.items()}

    @property
    def num_scored_bytes(self) -> int:
        """Bytes that count, over all documents."""
        return sum(document.num_scored_bytes for document in self.documents)


def prepare(
    documents: Sequence[Document], tokenizers: Sequence[Tokenizer], max_length: int
) -> Prepared:
    """Cut documents to the student's length and leave out those a model cannot read exactly.

    A document is left out by the first tokenizer that cannot read it, or whose model reads only
    shorter ones.

    Args:
        documents: as loaded.
        tokenizers: the student's first, then the teachers'.
        max_length: in student tokens, the start token or the chat template included; no longer
            than what the student's model reads.

    Raises:
        ConfigError: no document is left.
    """
    student = tokenizers[0]
    cut = cut_to_length(documents, student, min(max_length, student.max_tokens or max_length))
    short, views = [document for document, _ in cut], [view for _, view in cut]
    left, reasons = list(range(len(short))), {}
    lost: dict[str, dict[int, int]] = {}
    lengths: dict[str, dict[int, int]] = {}
    for tokenizer in tokenizers:
        if tokenizer is not student:
            views = tokenizer.read([short[index] for index in left])
        refused = [_why_not(view, tokenizer.max_tokens) for view in views]
        reasons[tokenizer.name] = dict(Counter(filter(None, refused)))
        lost[tokenizer.name] = {
            index: view.num_straddling(short[index].scored)
            for index, view, reason in zip(left, views, refused, strict=True)
            if isinstance(view, Tokens) and reason is None
        }
        lengths[tokenizer.name] = {
            index: len(view)
            for index, view in zip(left, views, strict=True)
            if isinstance(view, Tokens)
        }
        left = list(lost[tokenizer.name])
    kept = [index for index in left if short[index].num_scored_bytes]
    if not kept:
        raise ConfigError(
            f"none of {len(documents)} documents can be used: left out by tokenizer {reasons}, "
            f"the rest has no scored byte within max_length {max_length}"
        )
    return Prepared(
        documents=tuple(short[index] for index in kept),
        num_cut=sum(short[index] is not documents[index] for index in kept),
        num_unscored=len(left) - len(kept),
        reasons=reasons,
        straddling={name: sum(counts[index] for index in kept) for name, counts in lost.items()},
        longest={name: max(found[index] for index in kept) for name, found in lengths.items()},
    )


def _why_not(view: Tokens | UnfaithfulTokenizer, max_tokens: int | None) -> str | None:
    if isinstance(view, UnfaithfulTokenizer):
        return view.reason
    if max_tokens is not None and len(view) > max_tokens:
        return f"longer than the {max_tokens} tokens that its model reads"
    return None


def num_repeated(documents: Sequence[Document], seen: Sequence[Document]) -> int:
    """How many of the documents are word for word among those seen."""
    digests = {document.digest for document in seen}
    return sum(document.digest in digests for document in documents)


def documents_of_step(
    documents: Sequence[Document], step: int, global_batch: int, seed: int
) -> list[Document]:
    """The documents of one step: epochs of shuffled documents, end to end.

    A pure function of its arguments, so that the data order needs no state to resume.
    """
    first = step * global_batch
    positions = range(first, first + global_batch)
    orders: dict[int, np.ndarray] = {}
    chosen = []
    for position in positions:
        epoch, place = divmod(position, len(documents))
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(len(documents))
        chosen.append(documents[orders[epoch][place]])
    return chosen
