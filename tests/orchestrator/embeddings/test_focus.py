"""Likeness in spelling, and weights with zeros."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.vocabulary import Vocabulary
from orchestrator.student.embeddings.focus import focus, neighbours, sparsemax
from orchestrator.student.embeddings.spelling import spelling_vectors
from orchestrator.student.embeddings.vocabulary_pair import VocabularyPair, nothing


def brute_force_sparsemax(scores: torch.Tensor) -> torch.Tensor:
    """The threshold found by bisection."""
    low, high = scores.max() - 1, scores.max()
    for _ in range(100):
        middle = (low + high) / 2
        if (scores - middle).clamp(min=0).sum() > 1:
            low = middle
        else:
            high = middle
    return (scores - high).clamp(min=0)


class TestSparsemax:
    @given(st.lists(st.floats(-5, 5), min_size=1, max_size=9))
    def test_is_the_nearest_distribution(self, scores: list[float]):
        row = torch.tensor(scores, dtype=torch.float64)
        torch.testing.assert_close(sparsemax(row[None])[0], brute_force_sparsemax(row))

    def test_leaves_zeros(self):
        assert sparsemax(torch.tensor([[3.0, 1.0, 0.0]])).tolist() == [[1.0, 0.0, 0.0]]


class TestSpelling:
    def test_shared_parts_are_seen(self):
        words = [b"walking", b"walked", b"quantum", b" walking"]
        vectors = spelling_vectors(words)
        near = vectors[0] @ vectors.T
        assert near[0] == pytest.approx(1.0, abs=1e-5)
        assert near[3] > near[1] > near[2] + 0.1

    def test_the_most_alike_get_the_weight(self):
        anchors = [b" walk", b" quantum", b"zebra", b" walked"]
        near, weights = neighbours([b" walking"], anchors)
        chosen = dict(zip(near[0].tolist(), weights[0].tolist(), strict=True))
        assert chosen[0] + chosen[3] > 0.9
        assert chosen[2] == 0.0


class TestFocus:
    def test_copies_and_combines_what_both_have(self):
        source = Vocabulary((b"walk", b"walked", b"quantum", b"zebra"))
        target = Vocabulary((b"zebra", b"walking", b"walk", b"quantum"))
        rows = focus(VocabularyPair(source, target, nothing, nothing))
        assert {new: rows[new] for new in (0, 2, 3)} == {0: {3: 1.0}, 2: {0: 1.0}, 3: {2: 1.0}}
        assert set(rows[1]) <= {0, 2, 3}
        assert rows[1][0] == max(rows[1].values())

    def test_without_anything_in_common_it_is_the_pieces(self):
        source, target = Vocabulary((b"a", b"b")), Vocabulary((b"ab",))
        pair = VocabularyPair(source, target, lambda texts: [[0, 1] for _ in texts], nothing)
        assert focus(pair) == {0: {0: 1.0, 1: 1.0}}
