"""Divergences of coins: hand-computed values, gradients and laws."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import binarised

TEMPERED = ("binary_kl", "binary_ce", "reverse_binary_kl", "abs_exp", "joschu_k2", "joschu_k3")
ALL = {name: partial(getattr(binarised, name), temperature=2.0) for name in TEMPERED} | {
    "abs": binarised.absolute,
    "binary_kl_temp_limit": binarised.binary_kl_temp_limit,
    "renyi_half": lambda a, b: binarised.renyi(a, b, 0.5),
    "renyi_two": lambda a, b: binarised.renyi(a, b, 2.0),
}
every = pytest.mark.parametrize("name", ALL)
LN2 = math.log(2)


def nats(*values):
    return torch.tensor(values, dtype=torch.float64)


# Chunk probabilities 1/4 (teacher) and 1/16 (student) at temperature 2 are coins ½ and ¼.
# Cross-entropy -½ ln ¼ - ½ ln ¾; KL = that - ln 2; reverse ¼ ln ½ + ¾ ln(3/2); difference ¼.
# Log-ratio r = ½ ln 4 = ln 2: k2 = ½ ln² 2, k3 = 2 - 1 - ln 2.
# Untempered: |a - b| = ln 4; limit: (a - b) + a ln(b / a) with a = -2 ln 2, b = -4 ln 2:
# 2 ln 2 - 2 ln 2 · ln 2. Rényi 2: ln(p²/q + (1-p)²/(1-q)) = ln(1 + (9/16)(16/15)) = ln(8/5).
# Rényi ½: -2 ln(√(1/64) + √(45/64)) = -2 ln((1 + √45) / 8).
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("binary_ce", LN2 - math.log(3 / 4) / 2),
        ("binary_kl", -math.log(3 / 4) / 2),
        ("reverse_binary_kl", -LN2 / 4 + math.log(3 / 2) * 3 / 4),
        ("abs_exp", 1 / 4),
        ("joschu_k2", LN2**2 / 2),
        ("joschu_k3", 1 - LN2),
        ("abs", 2 * LN2),
        ("binary_kl_temp_limit", 2 * LN2 - 2 * LN2**2),
        ("renyi_two", math.log(8 / 5)),
        ("renyi_half", -2 * math.log((1 + math.sqrt(45)) / 8)),
    ],
)
def test_by_hand(name, expected):
    value = ALL[name](nats(math.log(1 / 4)), nats(math.log(1 / 16)))
    assert value.item() == pytest.approx(expected, abs=1e-5)  # epsilon shifts by about 1e-6


@every
def test_gradients(noise, name):
    teacher = -noise(6, seed=1).abs() - 0.05
    student = (-noise(6, seed=2).abs() - 0.05).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: ALL[name](teacher, b), student, eps=1e-7)


def test_published_gradient():
    # d binary_kl / d b = (q - p) / ((1 - q) · temperature) for coins p, q
    a, b = nats(-1.0, -3.0), nats(-2.0, -0.5).requires_grad_()
    p, q = ((x / 5 - binarised.EPSILON).exp() for x in (a, b))
    for function in (binarised.binary_kl, binarised.binary_ce):
        (gradient,) = torch.autograd.grad(function(a, b, 5.0).sum(), b)
        torch.testing.assert_close(gradient, ((q - p) / ((1 - q) * 5)).detach())


coins = st.lists(st.floats(-60, -1e-3), min_size=1, max_size=5)


@every
@given(a=coins, b=coins)
def test_never_negative(name, a, b):
    count = min(len(a), len(b))
    assert (ALL[name](nats(*a[:count]), nats(*b[:count])) >= -1e-12).all()


@pytest.mark.parametrize("name", [name for name in ALL if name != "binary_ce"])
@given(a=coins)
def test_zero_with_zero_gradient_at_equality(name, a):
    student = nats(*a).requires_grad_()
    values = ALL[name](nats(*a), student)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert values.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


@given(a=coins)
def test_binary_ce_is_the_coins_entropy_at_equality(a):
    student = nats(*a).requires_grad_()
    values = binarised.binary_ce(nats(*a), student, 2.0)
    heads = (student.detach() / 2 - binarised.EPSILON).exp()
    entropy = -(heads * heads.log() + (1 - heads) * torch.log1p(-heads))
    torch.testing.assert_close(values, entropy)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", ["binary_kl", "abs_exp"])
def test_limits_of_a_hot_coin(name):
    a, b = nats(-1.0, -4.0), nats(-2.5, -1.0)
    hot = getattr(binarised, name)(a, b, 1e4) * 1e4
    limit = {"binary_kl": binarised.binary_kl_temp_limit, "abs_exp": binarised.absolute}[name]
    torch.testing.assert_close(hot, limit(a, b), rtol=2e-2, atol=0)


@every
def test_certain_and_hopeless_chunks_stay_finite(name):
    teacher = torch.tensor([0.0, -500.0, 0.0, -500.0, -1.0])
    student = torch.tensor([0.0, 0.0, -80.0, -80.0, 1e-6]).requires_grad_()  # rounded above 0
    values = ALL[name](teacher, student)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert values.isfinite().all()
    assert gradient.isfinite().all()


def test_log1mexp(golden):
    data = golden("log1mexp")
    x = nats(*data["x"]).requires_grad_()
    y = binarised.log1mexp(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, nats(*data["y_reference_float64"]), rtol=1e-7, atol=1e-15)
    torch.testing.assert_close(gradient, nats(*data["grad_peer_float32"]), rtol=1e-5, atol=1e-15)
    assert binarised.log1mexp(nats(0.0)).item() == -math.inf
    single = binarised.log1mexp(x.float())
    torch.testing.assert_close(single.double(), y, rtol=1e-5, atol=1e-15)
