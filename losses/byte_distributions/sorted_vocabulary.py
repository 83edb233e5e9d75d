"""A vocabulary as ranges: sorted by bytes, the tokens that begin with a prefix lie side by side.

So the probability of the next byte is a sum over a range of columns, and all ranges that a prefix
needs are the children of its node in the trie.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from losses.alignment.trie import ROOT, Trie
from losses.alignment.vocabulary import ENDS, Vocabulary

END = 256
"""The symbol after the 256 bytes: the end of the text, or of the turn."""
END_OF_TOKEN = 257
"""The symbol that the exact chain rule of a token's bytes needs: the token ends here."""


@dataclass(frozen=True)
class Ranges:
    """Columns ``low : high`` of a sorted row whose sum is the mass of ``symbol``.

    ``owner`` is the number of the entry (see ``Walks``) that asks for it; owners rise.
    """

    owner: Int64[np.ndarray, "range"]
    symbol: Int64[np.ndarray, "range"]
    low: Int64[np.ndarray, "range"]
    high: Int64[np.ndarray, "range"]


@dataclass(frozen=True)
class Walks:
    """Stretches of a text that tokens begin with: sorted by start, then by end.

    The bytes ``content[start:at]`` are the prefix of ``node``; of length 0 it is the root's.
    """

    start: Int64[np.ndarray, "entry"]
    at: Int64[np.ndarray, "entry"]
    node: Int64[np.ndarray, "entry"]

    def where(self, kept: Bool[np.ndarray, "entry"]) -> "Walks":
        """Only these entries."""
        return Walks(self.start[kept], self.at[kept], self.node[kept])


@dataclass(frozen=True)
class SortedVocabulary:
    """The columns of a sorted row, and which of them lie below each node.

    Args:
        trie: of the tokens that have bytes.
        order: token id of each column: those tokens sorted by bytes, then the terminators.
        edges: edges ``edges[n] : edges[n + 1]`` of the trie lead down from node ``n``.
    """

    trie: Trie
    order: Int64[np.ndarray, "column"]
    edges: Int64[np.ndarray, "node_plus_one"]

    @classmethod
    def build(cls, vocabulary: Vocabulary, terminators: tuple[int, ...] = ()) -> "SortedVocabulary":
        """Sort a vocabulary; ``terminators`` end a turn beside the tokens of the role end."""
        trie = Trie.build(vocabulary)
        ends = {i for i, role in vocabulary.roles.items() if role in ENDS} | set(terminators)
        nodes = np.arange(len(trie.first) + 1)
        return cls(
            trie=trie,
            order=np.concatenate([trie.ids, np.array(sorted(ends), dtype=np.int64)]),
            edges=np.searchsorted(trie.keys, nodes * 256),
        )

    @property
    def num_text(self) -> int:
        """Columns of tokens that have bytes."""
        return len(self.trie.ids)

    def symbols_after(self, nodes: Int64[np.ndarray, "entry"], *, chain: bool = False) -> Ranges:
        """The ranges of all symbols that may follow each node's prefix.

        Args:
            nodes: one an entry; the text may end after the root's empty prefix only.
            chain: add the range of the tokens that are the prefix, as ``END_OF_TOKEN``.

        >>> table = SortedVocabulary.build(Vocabulary((b"a", None, b"ac", b"ab"), {1: "end"}))
        >>> ranges = table.symbols_after(np.array([0, 1]))
        >>> [chr(s) if s < 256 else s for s in ranges.symbol.tolist()]
        ['a', 256, 'b', 'c']
        """
        trie = self.trie
        owner, edge = spread(self.edges[nodes], self.edges[nodes + 1])
        parts = [(owner, trie.keys[edge] & 255, trie.first[edge + 1], trie.last[edge + 1])]
        if len(self.order) > self.num_text:
            roots = np.flatnonzero(nodes == ROOT)
            low, high = (np.full(len(roots), n) for n in (self.num_text, len(self.order)))
            parts.append((roots, np.full(len(roots), END), low, high))
        if chain:
            ends = np.flatnonzero((nodes != ROOT) & (trie.whole[nodes] > 0))
            first = trie.first[nodes[ends]]
            symbol = np.full(len(ends), END_OF_TOKEN)
            parts.append((ends, symbol, first, first + trie.whole[nodes[ends]]))
        fields = [np.concatenate(field) for field in zip(*parts, strict=True)]
        by_owner = np.argsort(fields[0], kind="stable")
        return Ranges(*(field[by_owner] for field in fields))

    def walk(self, content: UInt8[np.ndarray, "slot"], stops: Int64[np.ndarray, "slot"]) -> Walks:
        """From each byte, step by step as far as some token goes on.

        Args:
            content: a text's bytes.
            stops: the last place where a walk from here may stand.
        """
        start = at = np.arange(len(content))
        node = np.full(len(content), ROOT)
        found = []
        while len(start):
            found.append((start, at, node))
            inside = at < stops[start]
            start, at = start[inside], at[inside]
            node, known = self.trie.child(node[inside], content[at])
            start, at, node = start[known], at[known] + 1, node[known]
        if not found:
            return Walks(start, at, node)
        fields = [np.concatenate(field) for field in zip(*found, strict=True)]
        by_start = np.argsort(fields[0], kind="stable")
        return Walks(*(field[by_start] for field in fields))


def byte_table(vocabulary: Vocabulary, terminators: tuple[int, ...] = ()) -> SortedVocabulary:
    """The sorted vocabulary, made once for each vocabulary."""
    return _built(_Key(vocabulary.fingerprint, terminators, vocabulary))


def spread(
    starts: Int64[np.ndarray, "owner"], ends: Int64[np.ndarray, "owner"]
) -> tuple[Int64[np.ndarray, "element"], Int64[np.ndarray, "element"]]:
    """All numbers of the spans ``starts : ends`` in a row, and the span that each is from.

    >>> [array.tolist() for array in spread(np.array([5, 9, 2]), np.array([7, 9, 3]))]
    [[0, 0, 2], [5, 6, 2]]
    """
    counts = ends - starts
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


@dataclass(frozen=True)
class _Key:
    """A vocabulary that is known by its fingerprint: its table of roles has no hash."""

    fingerprint: str
    terminators: tuple[int, ...]
    vocabulary: Vocabulary = field(compare=False)


@lru_cache(maxsize=16)
def _built(key: _Key) -> SortedVocabulary:
    return SortedVocabulary.build(key.vocabulary, key.terminators)
