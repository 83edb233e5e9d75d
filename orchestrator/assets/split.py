"""Split documents into train, validation and held-out text that share no passage.

The shuffle is the order of ``sha256(seed + group)``, so a split depends on the text alone: the same
on every machine, Python version and run. Whole groups (an article, a question) go to one part;
a document left over for training that shares any eight consecutive words with a document of
another part is dropped, because a passage that both parts quote would be memorised, not predicted.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.atomic import atomic_write_text

SEED = "tutelage-split-1"
NGRAM_WORDS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One document of a data set and the group (article, question) it must stay with."""

    id: str
    text: str
    group: str


@dataclass(frozen=True, slots=True)
class Split:
    """The three disjoint parts of a data set."""

    train: list[Row]
    validation: list[Row]
    held_out: list[Row]


def shuffled(rows: Iterable[Row]) -> list[Row]:
    """Order rows by the hash of their group, then of their text; equal texts are kept once."""
    unique = {row.text: row for row in sorted(rows, key=lambda row: row.id, reverse=True)}
    return sorted(unique.values(), key=lambda row: (_hash(row.group), _hash(row.text)))


def split(rows: Iterable[Row], *, held_out: int, validation: int) -> Split:
    """Cut shuffled rows into three parts without a common group or eight-word passage.

    Args:
        rows: All documents; repeated texts are dropped.
        held_out: Least number of held-out documents; the last group may exceed it.
        validation: Least number of validation documents, taken after the held-out ones.

    Raises:
        ValueError: If nothing is left to train on.

    >>> rows = [Row(str(i), f"the number {i}", str(i)) for i in range(6)]
    >>> parts = split(rows, held_out=2, validation=1)
    >>> len(parts.train), len(parts.validation), len(parts.held_out)
    (3, 1, 2)
    """
    remaining = shuffled(rows)
    held, remaining = _take_groups(remaining, held_out)
    remaining = _without_shared_passages(remaining, held)
    valid, remaining = _take_groups(remaining, validation)
    train = _without_shared_passages(remaining, valid)
    if not train:
        raise ValueError(
            f"no training document is left after {held_out} held-out and {validation} validation "
            f"documents: expected more source documents; lower the two numbers"
        )
    return Split(*(sorted(part, key=lambda row: _hash(row.text)) for part in (train, valid, held)))


def passages(text: str) -> Iterator[tuple[str, ...]]:
    """Yield every run of eight lower-cased words of a text."""
    words = re.findall(r"\w+", text.lower())
    for start in range(len(words) - NGRAM_WORDS + 1):
        yield tuple(words[start : start + NGRAM_WORDS])


def write_split(parts: Split, folder: Path) -> None:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``held_out.jsonl`` of id and text."""
    named = {"train": parts.train, "validation": parts.validation, "held_out": parts.held_out}
    for name, rows in named.items():
        lines = [json.dumps({"id": row.id, "text": row.text}, ensure_ascii=False) for row in rows]
        atomic_write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))


def _take_groups(rows: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Take ``count`` rows from the front, then the rest of the last group taken."""
    end = min(count, len(rows))
    while 0 < end < len(rows) and rows[end].group == rows[end - 1].group:
        end += 1
    return rows[:end], rows[end:]


def _without_shared_passages(rows: list[Row], kept_apart: list[Row]) -> list[Row]:
    seen = {passage for row in kept_apart for passage in passages(row.text)}
    return [row for row in rows if seen.isdisjoint(passages(row.text))]


def _hash(text: str) -> str:
    return hashlib.sha256(f"{SEED}\n{text}".encode()).hexdigest()
