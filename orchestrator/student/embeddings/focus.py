"""FOCUS-like: a new token is a mean of the tokens that both vocabularies have, by likeness.

Tokens of equal bytes are copied. Any other one is a convex combination of the copied ones that are
spelled most like it, with sparsemax of the similarities as weights, as in FOCUS. FOCUS measures
likeness by fastText vectors trained on a corpus in the new tokens; here it is spelling alone.

Source: Dobler and de Melo 2023, arXiv:2305.14481, section 3.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from orchestrator.student.embeddings.fvt import piece_rows
from orchestrator.student.embeddings.spelling import spelling_vectors
from orchestrator.student.embeddings.vocabulary_pair import Row, VocabularyPair

NEIGHBOURS = 32
"""Copied tokens that may share in a new row; sparsemax leaves most of them without weight."""
SHARPNESS = 10.0
"""Similarities are multiplied by it: cosines between 0 and 1 lie too close for sparsemax."""
CELLS = 1 << 25
"""Similarities held at once."""


def focus(pair: VocabularyPair) -> dict[int, Row]:
    """The row of each new token that has bytes.

    Where the vocabularies share no token at all, it is the mean of the pieces.
    """
    overlap = pair.overlap
    if not overlap.copied or not overlap.new:
        return overlap.rows | piece_rows(pair)
    old = list(overlap.copied.values())
    near, weights = neighbours(pair.bytes_of(overlap.new), pair.bytes_of(overlap.copied))
    rows = overlap.rows
    for index, places, shares in zip(overlap.new, near.tolist(), weights.tolist(), strict=True):
        rows[index] = {old[p]: w for p, w in zip(places, shares, strict=True) if w > 0}
    return rows


def neighbours(
    tokens: Sequence[bytes], anchors: Sequence[bytes]
) -> tuple[Int64[Tensor, "token near"], Float32[Tensor, "token near"]]:
    """For each token the anchors most alike in spelling, and their weights (rows sum to 1)."""
    vectors = spelling_vectors([*tokens, *anchors])
    new, old = vectors[: len(tokens)], vectors[len(tokens) :]
    near = min(NEIGHBOURS, len(anchors))
    rows = max(1, CELLS // len(anchors))
    found = [(part @ old.T).topk(near) for part in new.split(rows)]
    values = torch.cat([one.values for one in found])
    return torch.cat([one.indices for one in found]), sparsemax(values * SHARPNESS)


def sparsemax(scores: Float[Tensor, "row entry"]) -> Float[Tensor, "row entry"]:
    """The distribution nearest to the scores; unlike softmax it has zeros.

    Source: Martins and Astudillo 2016, arXiv:1602.02068, algorithm 1.

    >>> sparsemax(torch.tensor([[1.0, 0.5, -1.0], [0.0, 0.0, 0.0]])).tolist()[0]
    [0.75, 0.25, 0.0]
    """
    ordered = scores.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1) - 1
    counts = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    kept = (ordered * counts > sums).sum(-1, keepdim=True)
    threshold = sums.gather(-1, kept - 1) / kept
    return (scores - threshold).clamp(min=0)
