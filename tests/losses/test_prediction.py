"""Heads, and tables of log-probabilities read whole or in row chunks."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.cross_entropy import cross_entropy
from losses.prediction import Head, Prediction, gather

WHOLE, ROW_BY_ROW, PAIRS = 2**25, 1, 14
chunked = pytest.mark.parametrize("elements", [WHOLE, ROW_BY_ROW, PAIRS])


def linear(noise, vocab, hidden):
    layer = nn.Linear(hidden, vocab, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(noise(vocab, hidden, seed=7))
        layer.bias.copy_(noise(vocab, seed=8))
    return layer


def test_head_cuts_scales_and_caps(noise):
    layer, hidden = linear(noise, 10, 4), noise(3, 4)
    raw = (hidden @ layer.weight.T + layer.bias)[:, :7]
    torch.testing.assert_close(Head(layer, 7).logits(hidden), raw)
    expected = 3 * torch.tanh(raw * 0.5 / 3)
    torch.testing.assert_close(Head(layer, 7, scale=0.5, softcap=3.0).logits(hidden), expected)


def test_padded_rows_have_no_probability(noise):
    # A padded row with a huge logit would take all the mass if it were not cut
    layer = linear(noise, 10, 4)
    with torch.no_grad():
        layer.bias[8] = 1e6
    prediction = with_head(noise, Head(layer, 7))
    mass = prediction.map_rows(lambda table: table.exp().sum(-1), prediction.scored_positions - 1)
    torch.testing.assert_close(mass, torch.ones_like(mass))


def test_half_precision_logits_become_fp32():
    head = Head(nn.Linear(4, 6, dtype=torch.bfloat16), 6)
    assert head.logits(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.float32


def with_head(noise, head, elements=WHOLE, rows=6):
    hidden = noise(rows, 4, seed=3).requires_grad_()
    ends = np.array([-1, 1, 2, -1, 4, 5])[:rows]
    scored = torch.tensor([False, True, True, False, False, True])[:rows]
    return Prediction(
        tokens=Tokens(np.array([0, 3, 1, 0, 2, 6])[:rows], ends),
        hidden=hidden,
        head=head,
        vocabulary=Vocabulary((b"a",) * 7),
        scored=scored,
        elements_in_memory=elements,
    )


@chunked
def test_rows_equal_the_full_table(noise, elements):
    layer = linear(noise, 7, 4)
    prediction = with_head(noise, Head(layer, 7), elements)
    full = torch.log_softmax(layer(prediction.hidden), -1)
    # scored 1, 2, 5; rows 0, 1, 4 predict them; together 0, 1, 2, 4, 5
    for positions in ([0, 1, 4], [1, 2, 5], [0, 1, 2, 4, 5], [4, 0, 0, 1, 2], [2], []):
        index = torch.tensor(positions, dtype=torch.int64)
        rows = prediction.map_rows(lambda table: table, index)
        torch.testing.assert_close(rows, full[index])
    expected = full[[0, 1, 4], [3, 1, 6]]
    torch.testing.assert_close(prediction.logprob_of_scored(), expected)


def test_foreign_positions_are_refused(noise):
    prediction = with_head(noise, Head(linear(noise, 7, 4), 7))
    for position in (3, 6, -1):
        with pytest.raises(ValueError, match="neither is scored nor predicts"):
            prediction.map_rows(lambda table: table, torch.tensor([position]))


@chunked
def test_gradients_do_not_depend_on_the_chunks(noise, elements):
    def gradients(elements):
        layer = linear(noise, 7, 4)
        prediction = with_head(noise, Head(layer, 7, softcap=5.0), elements)
        total = cross_entropy(prediction).total
        total = total + prediction.entropy(prediction.scored_positions).square().sum()
        return torch.autograd.grad(total, [prediction.hidden, layer.weight])

    for got, expected in zip(gradients(elements), gradients(WHOLE), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_look_without_gradients_does_not_cut_the_graph(noise):
    prediction = with_head(noise, Head(linear(noise, 7, 4), 7))
    with torch.no_grad():
        prediction.entropy(prediction.scored_positions)
    assert cross_entropy(prediction).total.requires_grad


@chunked
def test_topk_and_entropy(noise, elements):
    layer = linear(noise, 7, 4)
    prediction = with_head(noise, Head(layer, 7), elements)
    positions = prediction.scored_positions - 1
    full = torch.log_softmax(layer(prediction.hidden[positions]), -1)
    logprobs, ids = prediction.topk(positions, 3)
    for row, kept in enumerate(full.tolist()):
        order = sorted(range(7), key=lambda index, kept=kept: -kept[index])[:3]
        assert ids[row].tolist() == order
        assert logprobs[row].tolist() == pytest.approx([kept[index] for index in order])
    (gradient,) = torch.autograd.grad(logprobs.sum(), prediction.hidden)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(prediction.entropy(positions), -(full.exp() * full).sum(-1))


def test_entropy_by_hand(predict):
    # (½, ¼, ¼, 0): ½ ln 2 + 2 · ¼ ln 4 = 1.5 ln 2
    logits = torch.tensor([[0.5, 0.25, 0.25, 0.0]] * 2, dtype=torch.float64).log()
    entropy = predict(logits, [-1, 1]).entropy(torch.tensor([0]))
    assert entropy.item() == pytest.approx(1.5 * np.log(2))


def test_cross_entropy_by_hand(predict):
    # The row at the start gives token 1 probability ½, the next row gives token 2 probability ⅛.
    # The last row predicts nothing.
    logits = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.375, 0.125], [1.0, 0.0, 0.0]]).double()
    logits = (logits + 1e-300).log().requires_grad_()
    term = cross_entropy(predict(logits, [-1, 1, 2], ids=[0, 1, 2]))
    assert (term.units, term.total.item()) == (2, pytest.approx(np.log(2) + np.log(8)))
    (gradient,) = torch.autograd.grad(term.total, logits)
    # softmax minus one-hot
    expected = [[0.5, -0.5, 0.0], [0.5, 0.375, 0.125 - 1], [0, 0, 0]]
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-12)


@chunked
def test_nothing_scored(predict, noise, elements):
    logits = noise(3, 5).requires_grad_()
    term = cross_entropy(predict(logits, [-1, 1, 2], scored=[False] * 3, elements=elements))
    assert (term.units, term.total.item()) == (0, 0)
    (gradient,) = torch.autograd.grad(term.total, logits)  # still in the graph
    assert gradient.abs().max() == 0


def test_gather():
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert gather(table, torch.tensor([1, 0])).tolist() == [2, 3]
