"""Rows by hand: what is listed, what is left, and what nobody told."""

import math

import numpy as np
import pytest
import torch

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.chunk_distributions.top_tokens import top_tokens
from losses.likelihoods import token_likelihoods
from losses.told import ROUNDING, Told, ToldPrediction, Untold

SIZE = 6
VOCABULARY = Vocabulary((None, *(b"%d" % i for i in range(1, SIZE))), {0: "end"})


def told_prediction(own, listed, scored=None, size=SIZE):
    """Tokens 0, 1, 2 …; ``listed`` has of each the (id, probability) that were told."""
    count, k = len(own), max(map(len, listed))
    ids = np.full((count, k), -1, dtype=np.int32)
    values = np.full((count, k), -np.inf, dtype=np.float32)
    for place, entries in enumerate(listed):
        for rank, (index, probability) in enumerate(entries):
            ids[place, rank], values[place, rank] = index, math.log(probability)
    with np.errstate(divide="ignore"):
        logprob = np.log(np.array(own, dtype=np.float32))
    told = Told(logprob, ids, values)
    marks = np.arange(count) > 0 if scored is None else np.array(scored)
    vocabulary = (
        VOCABULARY if size == SIZE else Vocabulary(VOCABULARY.token_bytes[:size], {0: "end"})
    )
    return ToldPrediction(
        tokens=Tokens(np.arange(count), np.arange(count)),
        vocabulary=vocabulary,
        scored=torch.from_numpy(marks),
        told=told,
    )


def listed_of(prediction, k):
    return top_tokens(prediction, k, temperature=1.0, precision="float32")


def test_the_realised_token_is_taken_out_of_the_list():
    found = listed_of(
        told_prediction([np.nan, 0.5, 0.1], [[], [(1, 0.5), (3, 0.25)], [(4, 0.5), (5, 0.25)]]), 1
    )
    assert found.ids.tolist() == [[3], [4]]
    np.testing.assert_allclose(np.exp(found.others), [[0.25], [0.5]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(found.tail), [0.25, 0.4], rtol=1e-5)
    np.testing.assert_allclose(np.exp(found.logprob[1:]), [0.5, 0.1], rtol=1e-6)
    assert found.realised.tolist() == [1, 2]


def test_what_is_left_is_bounded_by_what_the_others_could_have():
    tiny = 1e-9
    found = listed_of(told_prediction([np.nan, 1 - tiny], [[], [(1, 1 - tiny), (3, tiny)]]), 1)
    assert np.exp(found.tail[0]) == pytest.approx((SIZE - 2) * tiny, rel=1e-3)


def test_noise_is_no_mass():
    found = listed_of(told_prediction([np.nan, 0.7], [[], [(1, 0.7), (3, 0.3000001)]]), 1)
    assert np.exp(found.tail[0]) == pytest.approx(ROUNDING, rel=1e-3)


def test_a_whole_row_leaves_nothing():
    row = [(1, 0.5), (2, 0.3), (0, 0.2)]
    found = listed_of(told_prediction([np.nan, 0.5], [[], row], size=3), 99)
    assert sorted(found.ids[0].tolist()) == [0, 2]
    assert found.tail.tolist() == [-np.inf]


def test_no_others_at_all():
    found = listed_of(told_prediction([np.nan, 0.25], [[], [(1, 0.25)]]), 0)
    assert np.exp(found.tail[0]) == pytest.approx(0.75)


def test_too_few_were_told():
    prediction = told_prediction([np.nan, 0.5], [[], [(1, 0.5), (3, 0.25), (-1, 0.1)]])
    with pytest.raises(ValueError, match=r"2 likely tokens .* only 1 of a row were told"):
        listed_of(prediction, 2)


def test_likelihoods_without_borders():
    prediction = told_prediction([np.nan, 0.5, 0.1], [[], [], []], scored=[False, False, True])
    found = token_likelihoods(prediction, None)
    assert np.isnan(found.logprob[:2]).all()
    assert np.exp(found.logprob[2]) == pytest.approx(0.1)
    assert np.isnan(found.border_logprob).all()


def test_a_scored_token_without_a_likelihood_is_refused():
    with pytest.raises(ValueError, match="token 1 of 2 counts, but its likelihood was not told"):
        told_prediction([np.nan, np.nan], [[], []])


@pytest.mark.parametrize(
    ("ask", "need"),
    [
        (lambda told: told.hidden, "hidden states"),
        (lambda told: told.embeddings(torch.tensor([1])), "hidden states"),
        (lambda told: told.head, "full distributions"),
        (lambda told: told.entropy(torch.tensor([1])), "full distributions"),
        (lambda told: told.topk(torch.tensor([1]), 1), "full distributions"),
        (lambda told: told.map_table(torch.exp, torch.tensor([1])), "full distributions"),
        (lambda told: told.continuations, "other continuations"),
        (lambda told: token_likelihoods(told, np.array([2])), "full distributions"),
        (lambda told: top_tokens(told, 1, temperature=2.0, precision="float32"), "full"),
        (
            lambda told: top_tokens(told, 1, temperature=1.0, precision="float32", after=True),
            "full",
        ),
    ],
)
def test_everything_else_is_refused_by_its_need(ask, need):
    with pytest.raises(Untold, match=f"reads {need}"):
        ask(told_prediction([np.nan, 0.5], [[], [(1, 0.5), (3, 0.25)]]))
