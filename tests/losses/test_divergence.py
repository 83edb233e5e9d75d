"""Divergences against hand-computed values, other projects and their laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import divergence

ALL = {
    "forward": divergence.forward,
    "reverse": divergence.reverse,
    "skewed_forward": lambda t, s: divergence.skewed_forward(t, s, 0.1),
    "skewed_reverse": lambda t, s: divergence.skewed_reverse(t, s, 0.1),
    "js": lambda t, s: divergence.js(t, s, 0.3),
    "adaptive": lambda t, s: divergence.adaptive(t, s, 0.5),
    "total_variation": divergence.total_variation,
}
every = pytest.mark.parametrize("name", ALL)


def log(*probs):
    return torch.tensor([probs], dtype=torch.float64).log()


def table(noise, seed, rows=3, vocab=5):
    return torch.log_softmax(noise(rows, vocab, seed=seed), dim=-1)


# Teacher (1/2, 1/2), student (1/4, 3/4):
# forward ½ ln 2 + ½ ln(2/3) = ½ ln(4/3); reverse ¼ ln ½ + ¾ ln(3/2); TVD ½ (¼ + ¼) = ¼.
# Half-skewed: the mixture is (3/8, 5/8); forward ½ ln(4/3) + ½ ln(4/5) = ½ ln(16/15);
# reverse ¼ ln(2/3) + ¾ ln(6/5); JS at ½ is the mean of these two.
# Adaptive at 0.4: no teacher token stays below 0.4, so the tail is empty: the forward KL.
# Adaptive at 0.6: of the two equal tokens one is tail, and both gaps are ¼: the plain mean.
FORWARD, REVERSE = math.log(4 / 3) / 2, math.log(1 / 2) / 4 + math.log(3 / 2) * 3 / 4
HALF_FORWARD = math.log(16 / 15) / 2
HALF_REVERSE = math.log(2 / 3) / 4 + math.log(6 / 5) * 3 / 4


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (divergence.forward, FORWARD),
        (divergence.reverse, REVERSE),
        (divergence.total_variation, 1 / 4),
        (lambda t, s: divergence.skewed_forward(t, s, 0.5), HALF_FORWARD),
        (lambda t, s: divergence.skewed_reverse(t, s, 0.5), HALF_REVERSE),
        (lambda t, s: divergence.skewed_forward(t, s, 0.0), FORWARD),
        (lambda t, s: divergence.skewed_reverse(t, s, 0.0), REVERSE),
        (lambda t, s: divergence.js(t, s, 0.5), (HALF_FORWARD + HALF_REVERSE) / 2),
        (lambda t, s: divergence.js(t, s, 0.0), FORWARD),
        (lambda t, s: divergence.js(t, s, 1.0), REVERSE),
        (lambda t, s: divergence.adaptive(t, s, 0.4), FORWARD),
        (lambda t, s: divergence.adaptive(t, s, 0.6), (FORWARD + REVERSE) / 2),
    ],
)
def test_by_hand(function, expected):
    assert function(log(1 / 2, 1 / 2), log(1 / 4, 3 / 4)).item() == pytest.approx(expected)


def test_skew_is_the_share_of_the_first_distribution():
    # skew ¾, teacher (1, 0), student (½, ½): the mixture holds ¾ + ⅛ = 7/8 of the first token
    sure, half = log(1.0, 0.0), log(0.5, 0.5)
    assert divergence.skewed_forward(sure, half, 0.75).item() == pytest.approx(-math.log(7 / 8))


@every
def test_gradients(noise, name):
    teacher, logits = table(noise, 1), noise(3, 5, seed=2).requires_grad_()

    def of_logits(logits):
        return ALL[name](teacher, torch.log_softmax(logits, dim=-1))

    if name == "adaptive":  # its weights carry no gradient: hold them fixed
        student = torch.log_softmax(logits, dim=-1)
        ascending, order = teacher.exp().sort(-1)
        gap = (ascending - student.exp().gather(-1, order)).abs().detach()
        share = (gap * (ascending.cumsum(-1) < 0.5)).sum(-1) / gap.sum(-1)
        expected = (1 - share) * divergence.kl(teacher, student) + share * divergence.kl(
            student, teacher
        )
        (wanted,) = torch.autograd.grad(expected.sum(), logits)
        (got,) = torch.autograd.grad(of_logits(logits).sum(), logits)
        torch.testing.assert_close(got, wanted)
    else:
        assert torch.autograd.gradcheck(of_logits, logits)


@every
@given(seed=st.integers(0, 10_000))
def test_never_negative(noise, name, seed):
    assert (ALL[name](table(noise, seed), table(noise, seed + 1)) >= 0).all()


@every
@given(seed=st.integers(0, 10_000))
def test_zero_with_zero_gradient_at_equality(noise, name, seed):
    logits = noise(3, 5, seed=seed).requires_grad_()
    student = torch.log_softmax(logits, dim=-1)
    rows = ALL[name](student.detach().clone(), student)
    assert rows.abs().max() < 1e-14
    (gradient,) = torch.autograd.grad(rows.sum(), logits)
    assert gradient.abs().max() < 1e-14


@every
def test_impossible_tokens_are_left_out(noise, name):
    teacher, student = noise(2, 6, seed=1), noise(2, 6, seed=2)
    teacher[:, 2] = student[:, 2] = -math.inf
    student.requires_grad_()
    with_gap = ALL[name](torch.log_softmax(teacher, -1), torch.log_softmax(student, -1))
    (gradient,) = torch.autograd.grad(with_gap.sum(), student)
    kept = [0, 1, 3, 4, 5]
    without = ALL[name](
        torch.log_softmax(teacher[:, kept], -1), torch.log_softmax(student[:, kept], -1)
    )
    torch.testing.assert_close(with_gap, without)
    assert gradient.isfinite().all()
    assert gradient[:, 2].abs().max() == 0


def test_missing_support():
    sure, half = log(1.0, 0.0), log(0.5, 0.5)
    assert divergence.forward(sure, half).item() == pytest.approx(math.log(2))
    assert divergence.forward(half, sure).item() == math.inf
    assert divergence.reverse(sure, half).item() == math.inf
    bounded = divergence.js(sure, half, 0.5) + divergence.skewed_reverse(sure, half, 0.1)
    assert bounded.isfinite().all()
    assert divergence.total_variation(log(1.0, 0.0), log(0.0, 1.0)).item() == 1


def test_nan_is_not_hidden():
    broken = torch.full((1, 3), math.nan)
    assert all(f(log(0.2, 0.3, 0.5).float(), broken).isnan().all() for f in ALL.values())


@pytest.mark.parametrize("elements", [1, 7, 20, 2**17])
def test_fast_forward_equals_the_plain_one(noise, monkeypatch, elements):
    monkeypatch.setattr(divergence, "ELEMENTS_IN_CACHE", elements)
    teacher = torch.log_softmax(noise(9, 500, seed=3), -1).float()
    logits = noise(9, 500, seed=4).float().requires_grad_()
    weights = noise(9, seed=5).float()
    results = []
    for function in (divergence.forward, divergence.kl):
        rows = function(teacher, torch.log_softmax(logits, -1))
        results.append((rows, *torch.autograd.grad((rows * weights).sum(), logits)))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-6)


def test_no_rows():
    empty = torch.zeros(0, 4)
    assert all(function(empty, empty).shape == (0,) for function in ALL.values())


KINDS = {
    "forward": lambda t, s, _: divergence.forward(t, s),
    "reverse": lambda t, s, _: divergence.reverse(t, s),
    "adaptive": lambda t, s, p: divergence.adaptive(t, s, p["alpha"]),
    "skewed_forward": lambda t, s, p: divergence.skewed_forward(t, s, p["skew_lambda"]),
    "skewed_reverse": lambda t, s, p: divergence.skewed_reverse(t, s, p["skew_lambda"]),
    "js": lambda t, s, _: divergence.js(t, s, 0.5),
}


def test_tokenkit(golden):
    data = golden("kl_divergences")
    tables = {key: torch.tensor(data["inputs"][key]).double() for key in data["inputs"]}
    for case in data["cases"]:
        hot = case["kd_temp"]
        teacher = tables["teacher_logits"] / hot / (case["teacher_temp"] or 1)
        student = tables["student_logits"] / hot
        rows = KINDS[case["kind"]](
            torch.log_softmax(teacher, -1).flatten(0, 1),
            torch.log_softmax(student, -1).flatten(0, 1),
            case["params"],
        )
        peer = torch.tensor(case["output"]).double()
        if not case["output_is_per_position"]:  # its JS forgets the sum over the vocabulary
            peer = peer.sum(-1)
        torch.testing.assert_close(rows, peer.flatten(), atol=1e-6, rtol=1e-6)


def test_trl(golden):
    data = golden("trl_jsd")
    student, teacher = (torch.tensor(data[f"{side}_logits"]) for side in ("student", "teacher"))
    for case in data["cases"]:
        rows = divergence.js(
            torch.log_softmax(teacher / case["temperature"], -1).flatten(0, 1),
            torch.log_softmax(student / case["temperature"], -1).flatten(0, 1),
            case["beta"],
        )
        labels = case["labels"]
        kept = torch.ones(len(rows)) if labels is None else (torch.tensor(labels) != -100).flatten()
        total = rows[kept.bool()].sum()
        over = {"sum": 1, "num_items=9": 9, "batchmean": 2 if labels is None else kept.sum()}
        expected = total / over[case["reduction"]]
        assert expected.item() == pytest.approx(case["out"], rel=1e-5, abs=1e-6), case
