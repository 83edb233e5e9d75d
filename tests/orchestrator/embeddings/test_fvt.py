"""New rows from old ones: the published numbers, numbers worked out by hand, and properties."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.alignment.vocabulary import Family, Vocabulary, bytes_of_piece
from orchestrator.student.embeddings.fvt import fvt
from orchestrator.student.embeddings.options import EmbeddingOptions
from orchestrator.student.embeddings.row_mixture import RowMixture
from orchestrator.student.embeddings.rows import mixture_of
from orchestrator.student.embeddings.vocabulary_pair import VocabularyPair

GOLDEN = Path(__file__).parents[2] / "golden" / "fvt.json"


def encoder(cuts: dict[str, list[int]]) -> Callable[[Sequence[str]], list[list[int]]]:
    """A tokenizer that knows how it cuts these texts."""
    return lambda texts: [cuts.get(text, []) for text in texts]


def pair_of(
    source: Sequence[bytes | None], target: Sequence[bytes | None], cuts: dict[str, list[int]]
) -> VocabularyPair:
    return VocabularyPair(
        Vocabulary(tuple(source)), Vocabulary(tuple(target)), encoder(cuts), encoder({})
    )


class TestPublished:
    """tokenkit's rows."""

    def test_every_row(self):
        golden: dict[str, Any] = json.loads(GOLDEN.read_text())
        special = "<|endoftext|>"
        names = sorted(golden["inputs"]["source_vocab"], key=golden["inputs"]["source_vocab"].get)
        rows = {row["id"]: row for row in golden["rows"]}
        source = [None if n == special else bytes_of_piece(n, Family.BYTE_LEVEL) for n in names]
        target: list[bytes | None] = [None] * (max(rows) + 1)
        cuts = {}
        for index, row in rows.items():
            if row["token"] != special:
                content = bytes_of_piece(row["token"], Family.BYTE_LEVEL)
                target[index] = content
                cuts[content.decode(errors="replace")] = row["source_ids"]
        pair = pair_of(source, target, cuts)
        table = torch.tensor(golden["inputs"]["source_embeddings"])
        made = mixture_of("fvt", pair, {0: 0}).apply(table, len(table), 0)
        expected = torch.tensor([row["embedding"] for row in rows.values()])
        torch.testing.assert_close(made[list(rows)], expected, rtol=1e-6, atol=1e-6)
        kinds = {index: "copied" if index in pair.overlap.copied else "averaged" for index in rows}
        assert {**kinds, 0: "copied"} == {index: row["kind"] for index, row in rows.items()}


class TestByHand:
    """Small vocabularies."""

    SOURCE = (b"lo", b"h", b"el", b"\xe2\x82", None)
    TABLE = torch.tensor([[4.0, 0.0], [0.0, 8.0], [2.0, 1.0], [6.0, 6.0], [100.0, 100.0]])

    def rows(self, target: Sequence[bytes | None], init: str = "fvt") -> torch.Tensor:
        cuts = {"hello": [1, 2, 0], "lolo": [0, 0]}
        mixture = mixture_of(init, pair_of(self.SOURCE, target, cuts), {})
        return mixture.apply(self.TABLE, 4, seed=0)

    def test_pieces(self):
        found = self.rows((b"hello", b"lolo", b"el"))
        assert found.tolist() == [[2.0, 3.0], [4.0, 0.0], [2.0, 1.0]]

    def test_a_byte_that_is_no_token_is_the_mean_of_those_that_begin_with_it(self):
        assert self.rows((b"\xe2", b"e")).tolist() == [[6.0, 6.0], [2.0, 1.0]]

    def test_bytes_that_are_no_text_are_cut_greedily(self):
        assert self.rows((b"\xe2\x82h",)).tolist() == [[3.0, 7.0]]

    def test_nothing_known_is_drawn_like_the_old_rows(self):
        drawn = self.rows([b"zz%d" % number for number in range(4000)])
        old = self.TABLE[:4]
        torch.testing.assert_close(drawn.mean(0), old.mean(0), atol=0.15, rtol=0.0)
        torch.testing.assert_close(drawn.std(0), old.std(0, correction=0), atol=0.15, rtol=0.0)

    def test_ids_without_bytes_are_the_mean_of_the_valid_rows(self):
        assert self.rows((None, b"h")).tolist() == [[3.0, 3.75], [0.0, 8.0]]

    def test_mean(self):
        assert self.rows((b"hello", b"h"), "mean").tolist() == [[3.0, 3.75], [0.0, 8.0]]

    def test_of_equal_bytes_the_written_one_goes_to_the_written_one(self):
        """As with SentencePiece's ``a`` and ``<0x61>``."""
        cut = encoder({"a": [2]})
        pair = VocabularyPair(Vocabulary((b"a", b"b", b"a")), Vocabulary((b"a", b"a")), cut, cut)
        assert dict(pair.overlap.copied) == {0: 2, 1: 0}
        alone = VocabularyPair(Vocabulary((b"a", b"b")), Vocabulary((b"a", b"a")), cut, cut)
        assert dict(alone.overlap.copied) == {0: 0}
        assert list(alone.overlap.new) == []


WORDS = st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=8, unique=True)


class TestProperties:
    """For any vocabularies."""

    @given(WORDS, WORDS, st.randoms(use_true_random=False), st.sampled_from(["fvt", "mean"]))
    def test_new_ids_in_another_order_give_the_same_rows(
        self, source: list[bytes], target: list[bytes], random: Any, init: str
    ):
        order = list(range(len(target)))
        random.shuffle(order)
        table = torch.randn(len(source), 3, generator=torch.Generator().manual_seed(1))
        mixtures = [
            mixture_of(init, pair_of(source, words, {}), {})
            for words in (target, [target[place] for place in order])
        ]
        rows = [mixture.apply(table, len(source), 0) for mixture in mixtures]
        known = [p for p, old in enumerate(order) if old not in mixtures[0].drawn]
        moved = rows[0][[order[place] for place in known]]
        assert torch.equal(rows[1][known], moved)

    @given(WORDS)
    def test_the_same_vocabulary_gives_the_same_rows(self, words: list[bytes]):
        table = torch.randn(len(words), 3)
        for init in ("fvt", "focus", "mean"):
            mixture = mixture_of(init, pair_of(words, words, {}), {})
            assert torch.equal(mixture.apply(table, len(words), 0), table)

    @given(WORDS, WORDS)
    def test_weights_of_a_row_sum_to_one(self, source: list[bytes], target: list[bytes]):
        for init in ("fvt", "focus"):
            mixture = mixture_of(init, pair_of(source, target, {}), {})
            sums = np.add.reduceat(np.append(mixture.weights, 0.0), mixture.offsets[:-1])
            np.testing.assert_allclose(sums[~mixture.is_empty], 1.0)

    def test_drawn_rows_follow_the_seed(self):
        mixture = RowMixture.of([{}, {0: 1.0}], [0])
        table = torch.randn(5, 3)
        rows = [mixture.apply(table, 5, seed) for seed in (1, 1, 2)]
        assert torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[0][0], rows[2][0])
        assert torch.equal(rows[0][1], rows[2][1])

    def test_fine_numbers_stay_fine(self):
        table = torch.randn(5, 3, dtype=torch.float64)
        assert RowMixture.of([{0: 1.0}]).apply(table, 5, 0).dtype == torch.float64

    def test_specials_take_the_rows_that_they_are_told(self):
        pair = pair_of((b"a", None), (None, b"a"), {})
        assert fvt(pair) == {1: {0: 1.0}}
        table = torch.tensor([[1.0], [7.0]])
        assert mixture_of("fvt", pair, {0: 1}).apply(table, 2, 0).tolist() == [[7.0], [1.0]]


class TestOptions:
    """What does not go together."""

    def test_a_hypernetwork_needs_a_folder_and_the_others_none(self):
        for options in ({"init": "hypernetwork"}, {"hypernetwork": "runs/hypernetwork/final"}):
            with pytest.raises(ValueError, match="expected a folder with init: hypernetwork"):
                EmbeddingOptions(**options)

    def test_bytes_and_others(self):
        with pytest.raises(ValueError, match="ngrams is true, but the tokenizer is not bytes"):
            EmbeddingOptions(ngrams=True).check_bytes(False)
        with pytest.raises(ValueError, match="bytes have none of their own"):
            EmbeddingOptions(special_tokens="target").check_bytes(True)
