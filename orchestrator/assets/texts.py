"""Turn evaluation records inside a package into plain documents to train on and to hold out.

Two sets, both made of whole documents that read well without their prompt:

* GSM8K grade-school questions with the worked answer. The package has the public *test* split, so
  the parts here are ours and results on them are no GSM8K scores.
* Prose: paragraphs of English Wikipedia that the SQuAD and BoolQ questions were written about, one
  group per article.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.assets.split import Row, split, write_split

PROSE_CHARACTERS = range(500, 901)
MAX_DIGIT_SHARE = 0.06
TYPOGRAPHY = "–—‘’“”…°£€½×éáíóúöüäèêàçñâôîûøåãëï"  # noqa: RUF001
ARTEFACT = re.compile(r"\(\s*[;,)]|\s[,.;)]|\s\s|\[|\n")


def write_gsm8k(sources: list[Path], folder: Path) -> None:
    """Write the GSM8K parts: at least 200 held-out and 60 validation documents, the rest train."""
    (requests,) = sources
    write_split(split(gsm8k_rows(requests), held_out=200, validation=60), folder)


def write_prose(sources: list[Path], folder: Path) -> None:
    """Write the prose parts: at least 130 held-out and 60 validation documents, the rest train."""
    squad, boolq = sources
    rows = [*squad_rows(squad), *boolq_rows(boolq)]
    write_split(split(rows, held_out=130, validation=60), folder)


def gsm8k_rows(requests: Path) -> Iterator[Row]:
    """Render each question with its worked answer, free of calculator marks."""
    for record in _records(requests):
        text = f"Question: {record['question'].strip()}\nAnswer: {record['choices'][0].strip()}"
        yield Row(f"gsm8k/{record['id']}", text, group=text)


def squad_rows(requests: Path) -> Iterator[Row]:
    """Yield the clean background paragraphs of SQuAD, grouped by article."""
    for record in _records(requests):
        background = record["query"].split("\nBackground: ", 1)[1]
        yield from _paragraph(record["title"].replace("_", " "), background)


def boolq_rows(requests: Path) -> Iterator[Row]:
    """Yield the clean passages of BoolQ, grouped by article."""
    for record in _records(requests):
        yield from _paragraph(*record["query"].split(" -- ", 1))


def is_clean_prose(text: str) -> bool:
    """Say whether a paragraph is 500 to 900 characters of ordinary English sentences."""
    digits = sum(character.isdigit() for character in text)
    return (
        len(text) in PROSE_CHARACTERS
        and all(character.isascii() or character in TYPOGRAPHY for character in text)
        and text[0].isupper()
        and text[-1] in '.!?"”'
        and ARTEFACT.search(text) is None
        and digits <= MAX_DIGIT_SHARE * len(text)
    )


def _paragraph(title: str, passage: str) -> Iterator[Row]:
    """Yield the passage before its question, if clean, with TeX-style quotes and dashes undone."""
    text = passage.rsplit("\nQuestion:", 1)[0].strip()
    text = text.replace("``", '"').replace("''", '"').replace("--", "–")
    if is_clean_prose(text):
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        yield Row(f"wikipedia/{title}#{digest}", text, group=title.casefold())


def _records(requests: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(requests, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["doc"]
