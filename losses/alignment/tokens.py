"""One tokenizer's view of a document: token ids and where each token ends in the bytes."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64


def _none() -> Int64[np.ndarray, "straddling"]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Tokens:
    """Ids with the byte offset at which each token ends.

    ``byte_ends[i]`` is -1 for a token of zero width (start token, template); otherwise the
    offsets never fall, and a token's bytes begin where the last one with an offset ended.

    Args:
        ids: what the model reads.
        byte_ends: offsets on the document's bytes.
        straddling: positions of tokens that cover bytes of the document and something else as
            well (text of a chat template), so that their likelihood is not that of the bytes.
    """

    ids: Int64[np.ndarray, "token"]
    byte_ends: Int64[np.ndarray, "token"]
    straddling: Int64[np.ndarray, "straddling"] = field(default_factory=_none)

    def __len__(self) -> int:
        return len(self.ids)

    def scored(self, scored_bytes: Bool[np.ndarray, "byte"]) -> Bool[np.ndarray, "token"]:
        """The tokens that count: see ``scored_tokens``; never one that straddles."""
        mask = scored_tokens(self.byte_ends, scored_bytes)
        mask[self.straddling] = False
        return mask

    def num_straddling(self, scored_bytes: Bool[np.ndarray, "byte"]) -> int:
        """How many tokens cover scored bytes but do not count, because they cover more.

        The first token is left aside: nothing predicts it.

        >>> tokens = Tokens(np.arange(4), np.array([-1, 2, 4, 5]))
        >>> tokens.num_straddling(np.array([False, False, False, True, True]))
        1
        """
        if not len(self.straddling) and scored_bytes.all():
            return 0
        counts = np.concatenate(([0], np.cumsum(scored_bytes)))
        starts, ends = byte_starts(self.byte_ends), np.maximum(self.byte_ends, 0)
        lost = (ends > starts) & (counts[ends] > counts[starts]) & ~self.scored(scored_bytes)
        return int(lost[1:].sum())


def byte_starts(byte_ends: Int64[np.ndarray, "token"]) -> Int64[np.ndarray, "token"]:
    """Byte offset at which each token begins; for a zero-width token, where it stands.

    >>> byte_starts(np.array([-1, 2, -1, 5])).tolist()
    [0, 0, 2, 2]
    """
    if not len(byte_ends):
        return byte_ends
    reached = np.maximum.accumulate(np.maximum(byte_ends, 0))
    return np.concatenate(([0], reached[:-1])).astype(np.int64)


def scored_tokens(
    byte_ends: Int64[np.ndarray, "token"], scored: Bool[np.ndarray, "byte"]
) -> Bool[np.ndarray, "token"]:
    """True for a token that a model predicts and whose bytes are all scored.

    The first position is never true (nothing predicts it), nor is a zero-width token, nor a
    token that straddles the border between scored and unscored bytes.

    >>> ends = np.array([-1, 2, 4, 5])
    >>> scored_tokens(ends, np.array([False, False, False, True, True])).tolist()
    [False, False, False, True]
    """
    counts = np.concatenate(([0], np.cumsum(scored)))
    starts, ends = byte_starts(byte_ends), np.maximum(byte_ends, 0)
    width = ends - starts
    mask: Bool[np.ndarray, "token"] = (width > 0) & (byte_ends > 0)
    mask &= (counts[ends] - counts[starts]) == width
    mask[:1] = False
    return mask
