"""The bytes of a document as one model's tokens read them.

A stretch is a run of tokens with bytes that nothing of zero width interrupts. No token of another
segmentation may reach over its ends: a chat template, the start token, a space that the tokenizer
put in front. Each stretch is followed by a border, one slot that holds no byte of text; the end of
a turn stands on it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from losses.alignment.tokens import Tokens, byte_starts
from losses.alignment.vocabulary import Vocabulary
from losses.byte_distributions.sorted_vocabulary import SortedVocabulary, Walks, spread


@dataclass(frozen=True)
class Reading:
    """The slots of a document, and the tokens (pieces) that they belong to.

    Args:
        content: a byte for each slot; of no meaning at a border.
        stops: the border behind each slot (its own slot for a border).
        positions: the slot's byte of the document; -1 for a space that the tokenizer put there,
            and at a border the byte behind the token.
        piece: the slot's token; at a border the end of the turn, else the token before it.
        wanted: True for a byte of the document that a scored token has.
        tokens: each piece's place in the sequence, never 0: nothing predicts the first token.
        starts: each piece's first slot.
        ids: each piece's token id.
        sizes: each piece's bytes; 0 for the end of a turn, which stands on a border.
    """

    content: UInt8[np.ndarray, "slot"]
    stops: Int64[np.ndarray, "slot"]
    positions: Int64[np.ndarray, "slot"]
    piece: Int64[np.ndarray, "slot"]
    wanted: Bool[np.ndarray, "slot"]
    tokens: Int64[np.ndarray, "piece"]
    starts: Int64[np.ndarray, "piece"]
    ids: Int64[np.ndarray, "piece"]
    sizes: Int64[np.ndarray, "piece"]

    @property
    def terminators(self) -> tuple[int, ...]:
        """The ids with which this document's turns end."""
        return tuple(sorted(set(self.ids[self.sizes == 0].tolist())))

    @cached_property
    def rows(self) -> Int64[np.ndarray, "slot"]:
        """Each wanted slot's number among them."""
        return np.cumsum(self.wanted) - 1

    def walk(self, table: SortedVocabulary) -> Walks:
        """How far tokens go on from each slot."""
        return table.walk(self.content, self.stops)

    @cached_property
    def is_start(self) -> Bool[np.ndarray, "slot"]:
        """True where a piece begins."""
        marks = np.zeros(len(self.content), dtype=bool)
        marks[self.starts] = True
        return marks


def read(tokens: Tokens, scored: Bool[np.ndarray, "token"], vocabulary: Vocabulary) -> Reading:
    """Lay out the bytes of all tokens that a model predicts and that lie on the document."""
    begins = byte_starts(tokens.byte_ends)
    table, covered = vocabulary.byte_table, _covered(tokens, begins, vocabulary)
    pieces = np.flatnonzero(covered)
    ids, inside = tokens.ids[pieces], covered[pieces]
    sizes = table.widths[ids]
    ends_turn = sizes == 0
    opens = (np.diff(pieces, prepend=-1) != 1) | (sizes > inside)
    opens[1:] |= ends_turn[:-1]
    counts = sizes + np.append(opens[1:], True)[: len(pieces)]  # and the border
    starts = np.cumsum(counts) - counts
    piece, slot = spread(starts, starts + counts)
    offset = slot - starts[piece]
    border = offset == sizes[piece]
    content = np.zeros(len(slot), dtype=np.uint8)
    content[~border] = table.content[(table.starts[ids[piece]] + offset)[~border]]
    extra = np.maximum(sizes - inside, 0)[piece]
    positions = np.where(offset < extra, -1, begins[pieces[piece]] + offset - extra)
    return Reading(
        content=content,
        stops=np.flatnonzero(border)[(np.cumsum(border) - border)],
        positions=positions,
        piece=piece,
        wanted=scored[pieces[piece]] & (offset >= extra) & (~border | ends_turn[piece]),
        tokens=pieces,
        starts=starts,
        ids=ids,
        sizes=sizes,
    )


def _covered(
    tokens: Tokens, begins: Int64[np.ndarray, "token"], vocabulary: Vocabulary
) -> Int64[np.ndarray, "token"]:
    """The document's bytes that each token covers, 0 for a token that is no piece."""
    covered = np.where(tokens.byte_ends >= 0, tokens.byte_ends - begins, 0)
    sizes = vocabulary.byte_table.widths[tokens.ids]
    covered[(sizes < covered) & ~((sizes == 0) & (covered == 1))] = 0
    covered[tokens.straddling] = 0
    covered[:1] = 0
    return covered
