"""The documents that the checks before the first step read."""

from collections.abc import Sequence

from losses.document import Document

FIRST = 64
"""The documents are chosen among so many, the first ones."""


def spread(documents: Sequence[Document], count: int) -> list[Document]:
    """So many documents, evenly from the shortest to the longest, so that padding occurs."""
    by_length = sorted(documents, key=lambda document: len(document.content))
    count = min(count, len(by_length))
    if count < 2:
        return by_length[-1:] * count
    last = len(by_length) - 1
    return [by_length[round(place * last / (count - 1))] for place in range(count)]
