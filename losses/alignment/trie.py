"""A vocabulary sorted by its bytes: which tokens begin with a prefix, which one fits longest.

The nodes of the trie are the distinct prefixes, numbered level by level, so an edge's key (parent
node, byte) rises with the number of the node it leads to and a step down is one binary search.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from losses.alignment.vocabulary import Vocabulary

ROOT = 0


@dataclass(frozen=True)
class Trie:
    """The tokens of a vocabulary that have bytes.

    Args:
        ids: token ids sorted by bytes; of equal bytes the lower id first.
        keys: ``parent node * 256 + byte`` of each edge, rising; edge ``e`` leads to node ``e + 1``.
        first: ``ids[first[n] : last[n]]`` are the tokens that begin with node ``n``'s prefix.
        last: see ``first``.
        whole: how many of these tokens are the prefix itself; they come first.
    """

    ids: Int64[np.ndarray, "regular"]
    keys: Int64[np.ndarray, "edge"]
    first: Int64[np.ndarray, "node"]
    last: Int64[np.ndarray, "node"]
    whole: Int64[np.ndarray, "node"]

    @classmethod
    def build(cls, vocabulary: Vocabulary) -> "Trie":
        """Sort the tokens, then cut each level's prefixes out of the one before.

        >>> trie = Trie.build(Vocabulary((b"a", None, b"abc", b"ab", b"b")))
        >>> trie.ids.tolist()
        [0, 3, 2, 4]
        """
        table = vocabulary.token_bytes
        ids = np.array([i for i, content in enumerate(table) if content], dtype=np.int64)
        ids = ids[sorted(range(len(ids)), key=lambda place: table[ids[place]] or b"")]
        flat, starts, lengths = join([table[i] or b"" for i in ids])
        node = np.full(len(ids), ROOT)
        keys, first, last = [], [np.array([0])], [np.array([len(ids)])]
        num_nodes, rows = 1, np.arange(len(ids))
        for depth in range(int(lengths.max(initial=0))):
            rows = rows[lengths[rows] > depth]
            key = node[rows] * 256 + flat[starts[rows] + depth]
            new = np.append(True, key[1:] != key[:-1])
            begins = np.flatnonzero(new)
            node[rows] = num_nodes - 1 + np.cumsum(new)
            num_nodes += len(begins)
            keys.append(key[begins])
            first.append(rows[begins])
            last.append(rows[np.append(begins[1:], len(rows)) - 1] + 1)
        return cls(
            ids=ids,
            keys=np.concatenate(keys) if keys else np.zeros(0, dtype=np.int64),
            first=np.concatenate(first),
            last=np.concatenate(last),
            whole=np.bincount(node, minlength=num_nodes) if len(ids) else np.zeros(1, np.int64),
        )

    def starting_with(self, prefix: bytes) -> Int64[np.ndarray, "token"]:
        """Ids of the tokens that begin with the prefix, sorted by their bytes.

        >>> Trie.build(Vocabulary((b"a", b"abc", b"ab", b"b"))).starting_with(b"ab").tolist()
        [2, 1]
        """
        node = np.array([ROOT])
        for byte in prefix:
            node, found = self.child(node, np.array([byte], dtype=np.uint8))
            if not found[0]:
                return self.ids[:0]
        return self.ids[self.first[node[0]] : self.last[node[0]]]

    def longest_prefix(
        self,
        flat: UInt8[np.ndarray, "byte"],
        starts: Int64[np.ndarray, "text"],
        ends: Int64[np.ndarray, "text"],
    ) -> tuple[Int64[np.ndarray, "text"], Int64[np.ndarray, "text"]]:
        """The longest token that each text begins with.

        Args:
            flat: the texts' bytes.
            starts: where each text begins in ``flat``.
            ends: where it ends.

        Returns:
            Token ids (-1: no token fits; of equal bytes the lowest id) and the tokens' lengths.
        """
        ids, lengths = np.full(len(starts), -1), np.zeros(len(starts), dtype=np.int64)
        walking, node = np.arange(len(starts)), np.full(len(starts), ROOT)
        depth = 0
        while len(walking):
            inside = starts[walking] + depth < ends[walking]
            walking, node = walking[inside], node[inside]
            node, found = self.child(node, flat[starts[walking] + depth])
            walking, node, depth = walking[found], node[found], depth + 1
            fits = self.whole[node] > 0
            ids[walking[fits]] = self.ids[self.first[node[fits]]]
            lengths[walking[fits]] = depth
        return ids, lengths

    def cover(self, texts: Sequence[bytes], limit: int) -> Int64[np.ndarray, "text limit"]:
        """Cut each text greedily into its longest tokens.

        Returns:
            The first ``limit`` ids of each text; -1 after the text's end and from the first
            byte on that no token begins with.

        >>> trie = Trie.build(Vocabulary((b"a", b"ab", b"b")))
        >>> trie.cover([b"aabb", b"ba?b"], 3).tolist()
        [[0, 1, 2], [2, 0, -1]]
        """
        flat, starts, lengths = join(texts)
        ends = starts + lengths
        pieces = np.full((len(texts), limit), -1)
        for place in range(limit):
            pieces[:, place], width = self.longest_prefix(flat, starts, ends)
            starts = np.where(width > 0, starts + width, ends)
        return pieces

    def child(
        self, node: Int64[np.ndarray, "walker"], byte: UInt8[np.ndarray, "walker"]
    ) -> tuple[Int64[np.ndarray, "walker"], Bool[np.ndarray, "walker"]]:
        """The nodes one byte further down, and whether there are such nodes."""
        key = node * 256 + byte
        edge = np.searchsorted(self.keys, key)
        found = edge < len(self.keys)
        found[found] = self.keys[edge[found]] == key[found]
        return edge + 1, found


def join(
    texts: Sequence[bytes],
) -> tuple[UInt8[np.ndarray, "byte"], Int64[np.ndarray, "text"], Int64[np.ndarray, "text"]]:
    """All bytes in one array, where each text starts in it, and how long it is."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    starts = np.cumsum(lengths) - lengths
    return np.frombuffer(b"".join(texts), dtype=np.uint8), starts, lengths
