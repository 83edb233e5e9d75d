"""How tokens are spelled where their texts are compared, and how far two spellings are apart."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int, Int32
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from losses.alignment.vocabulary import ENDS, Vocabulary

ROLES = ("start", "end", "pad", "unknown", "other")
FIRST_ROLE = 0xE000
"""Special tokens are spelled by their role, as one private character.

A text is never followed by both kinds of end, so they are spelled alike: one vocabulary may have a
single token for both.
"""


@lru_cache(maxsize=16)
def spellings(
    vocabulary: Vocabulary, *, by_character: bool = False, spaces: bool = False
) -> tuple[str, ...]:
    r"""The spelling of every id; empty for an unused one.

    Args:
        vocabulary: whose ids.
        by_character: characters, as published: a piece of a character is then U+FFFD, so that all
            such pieces are equal. Otherwise one letter a byte.
        spaces: keep spaces.

    >>> words = Vocabulary((b" cats", "é".encode(), b"\xc3", None), {3: "end"})
    >>> [len(text) for text in spellings(words)], spellings(words)[0]
    ([4, 2, 1, 1], 'cats')
    >>> spellings(words, by_character=True)[2] == chr(0xFFFD)
    True
    """
    found = []
    for index, content in enumerate(vocabulary.token_bytes):
        text = (content or b"").decode("utf-8" if by_character else "latin-1", "replace")
        if content is None and index in vocabulary.roles:
            role = vocabulary.roles[index]
            text = chr(FIRST_ROLE + ROLES.index("end" if role in ENDS else role))
        found.append(text if spaces else text.replace(" ", ""))
    return tuple(found)


def spelled(texts: Sequence[str], ids: Int[np.ndarray, "token"]) -> list[str]:
    """The spellings of some ids."""
    return [texts[index] for index in ids.tolist()]


def edit_distances(
    sources: Sequence[str], targets: Sequence[str]
) -> Int32[np.ndarray, "source target"]:
    """Levenshtein distance of each source to each target.

    >>> edit_distances(["cats", ""], ["cat", "dogs"]).tolist()
    [[1, 3], [3, 4]]
    """
    if not sources or not targets:
        return np.zeros((len(sources), len(targets)), dtype=np.int32)
    found: Int32[np.ndarray, "source target"] = cdist(
        sources, targets, scorer=Levenshtein.distance, dtype=np.int32, workers=1
    )
    return found
