"""For each byte of a text, the longest old token that ends there.

Its frozen old embedding is added to the byte's, which gives a byte model most of the old one's
knowledge of words at no depth.

Source: ``expand_input_ids`` of Minixhofer et al. 2025, arXiv:2503.20083, appendix C. There, longer
    tokens count by their last 16 bytes, whichever comes first; here they are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from losses.alignment.projection_build import exact_matches
from losses.alignment.trie import Trie
from losses.alignment.vocabulary import Vocabulary
from orchestrator.student.embeddings.vocabulary_pair import Encode

LONGEST = 16
"""Bytes that are looked at before and at each position."""


@dataclass(frozen=True, eq=False)
class SuffixTable:
    """A trie of old tokens written backwards.

    Args:
        keys: ``node * 256 + byte`` of each edge, rising; edge ``e`` leads to node ``e + 1``.
        tokens: the old token that each node spells, -1 for none; node 0 is the root.
        alone: for each new id that is no byte, the old token of its role; -1 for a byte or none.
    """

    keys: Int64[np.ndarray, "edge"]
    tokens: Int64[np.ndarray, "node"]
    alone: Int64[np.ndarray, "id"]

    @classmethod
    def of(
        cls, source: Vocabulary, encode_source: Encode, alone: Sequence[int] = (-1,) * 256
    ) -> "SuffixTable":
        """From the old vocabulary.

        Args:
            source: the old vocabulary.
            encode_source: the old tokenizer; of old tokens of equal bytes the written one counts.
            alone: see the class; the 256 bytes come first.

        Raises:
            ValueError: there is no token to look up.
        """
        short = [b if b and len(b) <= LONGEST else None for b in source.token_bytes]
        if not any(short):
            raise ValueError(f"no old token has {LONGEST} bytes or fewer; expected a vocabulary")
        kept = Vocabulary(tuple(short))
        written = exact_matches(kept, kept, encode_source)
        trie = Trie.build(Vocabulary(tuple(b[::-1] if b else None for b in short)))
        first = np.where(trie.whole > 0, trie.ids[np.minimum(trie.first, len(trie.ids) - 1)], -1)
        tokens = np.where(first >= 0, written[first], -1)
        return cls(trie.keys, tokens, np.asarray(alone, dtype=np.int64))


def longest_suffixes(
    ids: Int64[np.ndarray, "batch token"], table: SuffixTable
) -> Int64[np.ndarray, "batch token"]:
    """The old token that ends at each position and is longest; -1 where there is none.

    A special token is looked up alone, and no old token reaches across one.

    >>> source = Vocabulary((b"a", b"b", b"ab", b"bab"))
    >>> table = SuffixTable.of(source, lambda texts: [[] for _ in texts])
    >>> longest_suffixes(np.array([list(b"abcbab")]), table).tolist()
    [[0, 2, -1, 1, 0, 3]]
    """
    found: Int64[np.ndarray, "batch token"] = table.alone[ids]
    walking, node = table.alone[ids] < 0, np.zeros_like(ids)
    walking &= ids < 256
    for depth in range(min(LONGEST, ids.shape[1])):
        byte = np.pad(ids, ((0, 0), (depth, 0)), constant_values=256)[:, : ids.shape[1]]
        key = node * 256 + byte
        edge = np.minimum(np.searchsorted(table.keys, key), len(table.keys) - 1)
        walking = walking & (byte < 256) & (table.keys[edge] == key)
        node = np.where(walking, edge + 1, 0)
        found = np.where(walking & (table.tokens[node] >= 0), table.tokens[node], found)
    return found
