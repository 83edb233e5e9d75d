"""Toy documents: the prose of Python's own help topics, cut into pieces of 200 to 400 characters.

Nothing is downloaded: the text is in every Python's standard library. It changes a little between
versions of Python, and the toy models with it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from orchestrator.assets.split import Row, Split, split, write_split

MIN_CHARACTERS = 200
MAX_CHARACTERS = 400
UNDERLINE = re.compile(r"^[*=~-]{3,}", re.MULTILINE)
SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")


def toy_split() -> Split:
    """Split the pieces into 100 held-out and 40 validation documents, the rest train."""
    return split(toy_rows(), held_out=100, validation=40)


def write_toy_text(folder: Path) -> Split:
    """Write the three JSONL files of the toy text and return what they hold."""
    parts = toy_split()
    write_split(parts, folder)
    return parts


def toy_rows() -> Iterator[Row]:
    """Yield every piece; topics quote each other, so a piece is its own group."""
    for topic in sorted(topics):
        for index, piece in enumerate(_pieces(topics[topic])):
            yield Row(f"toy/{topic}#{index}", piece, group=piece)


def _pieces(text: str) -> Iterator[str]:
    """Pack whole sentences of the unwrapped prose until a piece is long enough."""
    piece = ""
    for block in text.split("\n\n"):
        if block.startswith(" ") or UNDERLINE.search(block):  # code, grammar, tables; headings
            continue
        for sentence in SENTENCE_END.split(" ".join(block.split())):
            piece = f"{piece} {sentence}".strip()
            if len(piece) >= MIN_CHARACTERS:
                if len(piece) <= MAX_CHARACTERS:
                    yield piece
                piece = ""
