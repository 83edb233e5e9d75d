"""Fast vocabulary transfer: rows of equal bytes are copied, others are the mean of their pieces.

The pieces are those into which the old tokenizer cuts the new token's text. Bytes that are no text
are cut greedily into the longest old tokens; a single byte that no old token is takes the mean of
the old tokens that begin with it.

Source: Gee et al. 2022, arXiv:2402.09977; on bytes as in Minixhofer et al. 2025, arXiv:2503.20083,
    whose code draws bytes that are no text at random.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from losses.alignment.trie import Trie
from losses.alignment.vocabulary import Vocabulary
from orchestrator.student.embeddings.row_mixture import uniform
from orchestrator.student.embeddings.vocabulary_pair import Row, VocabularyPair


def fvt(pair: VocabularyPair) -> dict[int, Row]:
    """The row of each new token that has bytes.

    >>> source = Vocabulary((b"lo", b"h", b"el", None))
    >>> target = Vocabulary((b"hello", bytes([255]), b"el", None))
    >>> def cut(texts):
    ...     return [[1, 2, 0] if text == "hello" else [] for text in texts]
    >>> fvt(VocabularyPair(source, target, cut, cut))
    {2: {2: 1.0}, 0: {1: 1.0, 2: 1.0, 0: 1.0}, 1: {}}
    """
    return pair.overlap.rows | piece_rows(pair)


def piece_rows(pair: VocabularyPair) -> dict[int, Row]:
    """The mean of the pieces of each token without an old one; empty where there is no piece."""
    ids = pair.overlap.new
    contents = dict(zip(ids, pair.bytes_of(ids), strict=True))
    texts = {index: text for index, b in contents.items() if (text := _text(b)) is not None}
    rows: dict[int, Row] = {}
    for index, pieces in zip(texts, pair.encode_source(list(texts.values())), strict=True):
        joined = b"".join(pair.source.token_bytes[piece] or b"" for piece in pieces)
        if pieces and joined == contents[index]:
            rows[index] = uniform(pieces)
    left = [index for index in ids if index not in rows]
    covers = _covers(pair.source, [contents[index] for index in left])
    rows |= dict(zip(left, covers, strict=True))
    return {index: rows[index] for index in ids}


def _covers(source: Vocabulary, contents: Sequence[bytes]) -> Iterator[Row]:
    """Greedy longest tokens; for a byte that none of them is, all tokens that begin with it."""
    if not contents:
        return
    trie = Trie.build(source)
    limit = max(map(len, contents))
    for content, pieces in zip(contents, trie.cover(contents, limit), strict=True):
        found = pieces[pieces >= 0].tolist()
        width = sum(len(source.token_bytes[piece] or b"") for piece in found)
        if width == len(content):
            yield uniform(found)
        elif len(content) == 1:
            yield uniform(np.sort(trie.starting_with(content)).tolist())
        else:
            yield {}


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
