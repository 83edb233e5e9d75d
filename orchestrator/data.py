"""Documents from JSONL files, cut to length, and the order in which steps use them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from losses.document import Document, Segment
from orchestrator.assets import resolve
from orchestrator.errors import ConfigError
from teachers.tokenizer import Tokenizer

Row: TypeAlias = dict[str, Any]


def data_path(reference: str) -> Path:
    """The file a run file's ``data`` entry names: a path or ``asset:NAME``."""
    return resolve(reference) if reference.startswith("asset:") else Path(reference).absolute()


def load_documents(references: Sequence[str], limit: int | None = None) -> list[Document]:
    """The rows of the files, in order; of each file only the first ``limit``, if set.

    A row is ``{"text"}`` (every byte scored) or ``{"prompt", "completion"}`` (only the
    completion scored). Empty rows are refused: they would count as documents and teach nothing.

    Raises:
        ConfigError: a file is missing, or a row is not of a known form; names file and line.
    """
    rows = (islice(_read(reference), limit) for reference in references)
    return list(chain.from_iterable(rows))


def _read(reference: str) -> Iterator[Document]:
    path = data_path(reference)
    if not path.is_file():
        raise ConfigError(f"data file {reference} does not exist ({path})")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _document(line, f"{reference}:{number}")


def _document(line: bytes, name: str) -> Document:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start} of the line") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}: not a JSON object ({error.msg})") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{name}: expected a JSON object, found {type(row).__name__}")
    segments = tuple(_segments(row, name))
    if not any(segment.scored and segment.content for segment in segments):
        raise ConfigError(f"{name}: nothing to learn from: the scored text is empty")
    return Document(name, segments)


def _segments(row: Row, name: str) -> Iterator[Segment]:
    if "text" in row:
        yield Segment("text", _utf8(row, "text", name), scored=True)
    elif "prompt" in row and "completion" in row:
        yield Segment("prompt", _utf8(row, "prompt", name), scored=False)
        yield Segment("completion", _utf8(row, "completion", name), scored=True)
    else:
        raise ConfigError(
            f'{name}: expected the key "text", or "prompt" and "completion"; '
            f"found {', '.join(sorted(row)) or 'nothing'}"
        )


def _utf8(row: Row, key: str, name: str) -> bytes:
    value = row[key]
    if not isinstance(value, str):
        raise ConfigError(f'{name}: "{key}" must be a string, found {type(value).__name__}')
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f'{name}: "{key}" holds half a surrogate pair at {error.start}'
        ) from error


@dataclass(frozen=True)
class Prepared:
    """Documents that every tokenizer reads exactly, and what happened to the others."""

    documents: tuple[Document, ...]
    num_cut: int
    num_unscored: int
    """Documents left out because nothing scored is left of them within the length."""
    quarantined: dict[str, int]
    """Tokenizer name -> documents left out because it does not give their bytes back."""

    @property
    def num_scored_bytes(self) -> int:
        """Bytes that count, over all documents."""
        return sum(document.num_scored_bytes for document in self.documents)


def prepare(
    documents: Sequence[Document], tokenizers: Sequence[Tokenizer], max_length: int
) -> Prepared:
    """Cut documents to the student's length and leave out those a tokenizer cannot read exactly.

    Cutting is by bytes, so that every model sees the same text.

    Args:
        documents: as loaded.
        tokenizers: the student's first, then the teachers'.
        max_length: in student tokens, the start token included.

    Raises:
        ConfigError: no document is left.
    """
    kept, quarantined = [], dict.fromkeys((t.name for t in tokenizers), 0)
    num_cut = num_unscored = 0
    for document in documents:
        short = _shortened(document, tokenizers[0], max_length)
        unfaithful = next((t for t in tokenizers if not t.is_faithful(short)), None)
        if unfaithful is not None:
            quarantined[unfaithful.name] += 1
        elif not short.num_scored_bytes:
            num_unscored += 1
        else:
            num_cut += short is not document
            kept.append(short)
    if not kept:
        raise ConfigError(
            f"none of {len(documents)} documents can be used: left out by tokenizer {quarantined}, "
            f"the rest has no scored byte within max_length {max_length}"
        )
    return Prepared(tuple(kept), num_cut, num_unscored, quarantined)


def _shortened(document: Document, student: Tokenizer, max_length: int) -> Document:
    """Cut to length; what the student cannot read exactly stays as it is."""
    if not student.is_faithful(document):
        return document
    return cut_to_length(document, student, max_length)


def cut_to_length(document: Document, tokenizer: Tokenizer, max_length: int) -> Document:
    """The document's longest beginning, at a character border, within ``max_length`` tokens."""
    while len(tokens := tokenizer.encode([document])[0]) > max_length:
        num_bytes = int(tokens.byte_ends[max_length - 1])
        while num_bytes > 0 and document.content[num_bytes] & 0xC0 == 0x80:
            num_bytes -= 1
        document = _beginning(document, min(num_bytes, len(document.content) - 1))
    return document


def _beginning(document: Document, num_bytes: int) -> Document:
    segments, left = [], num_bytes
    for segment in document.segments:
        segments.append(replace(segment, content=segment.content[:left]))
        left -= len(segments[-1].content)
    return Document(document.name, tuple(segments))


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
