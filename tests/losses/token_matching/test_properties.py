"""What cdm and mined promise whatever the numbers are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from losses.base import Pair
from losses.methods.cdm import Cdm
from losses.methods.mined import Mined
from losses.prediction import ELEMENTS_IN_MEMORY
from losses.signals import TokenLikelihoods

EXACT = "float32"
CLEAN = [
    Cdm(k=4, precision=EXACT),
    Cdm(k=20, threshold=0.6, precision=EXACT),
    Cdm(k=4, temperature=2.0, precision=EXACT),
    Mined(k=3, precision=EXACT),
    Mined(k=20, match="soft", threshold=0.6, precision=EXACT),
    Mined(k=3, temperature=2.0, precision=EXACT),
]
METHODS = [
    *CLEAN,
    Cdm(k=4, temperature=0.8, precision=EXACT, published=True),
    Mined(k=3, precision=EXACT, published="dskd"),
    Mined(k=3, match="soft", temperature=2.0, precision=EXACT, published="fusellm"),
]


@pytest.fixture(params=CLEAN, ids=repr)
def clean(request):
    return request.param


@pytest.fixture(params=METHODS, ids=repr)
def method(request):
    return request.param


def same_sides(toy, seed, dtype=torch.float64):
    """The teacher's reading and vocabulary on both sides."""
    words = toy.pair.teacher
    rows = toy.noise(len(toy.teacher_ids), len(words), seed=seed).to(dtype)
    own = rows.clone().requires_grad_()
    sides = [toy.side_of(x, toy.teacher_ids, words) for x in (rows, own)]
    return toy.pair_of(words, words), own, sides


def test_cdm_counts_its_positions_and_those_without_two_pairs(toy):
    teacher, _, student = toy.sides()
    everything, little = (
        toy.term(Cdm(k=k, threshold=0.0), teacher, student).metrics for k in (20, 1)
    )
    assert set(everything) == set(Cdm.metric_names) == set(little)
    assert everything["positions"] == little["positions"] > 0
    assert everything["lost"] == 0
    assert little["lost"] == little["positions"]  # lists of one


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_zero_with_zero_gradient_at_identity(toy, clean, seed, dtype):
    pair, own, sides = same_sides(toy, seed, dtype)
    term = toy.term(clean, *sides, pair)
    assert term.units == len(toy.teacher_ids)
    term.total.backward()
    assert term.total.item() == pytest.approx(0, abs=1e-6)
    assert own.grad.abs().max().item() < 1e-5


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.1, 1.0, 30.0, 300.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_never_negative_and_finite(toy, clean, seed, scale, dtype):
    teacher, _, _ = toy.sides(seed, dtype=dtype)
    own = (scale * toy.noise(len(toy.student_ids), len(toy.pair.student), seed=seed + 1)).to(dtype)
    own.requires_grad_()
    value = toy.total(clean, teacher, toy.side_of(own, toy.student_ids, toy.pair.student))
    assert value.item() >= -1e-6
    assert value.isfinite()
    value.backward()
    assert own.grad.isfinite().all()


def test_published_form_of_cdm_is_negative_where_a_divergence_cannot_be(toy):
    """With τ below 1 its own target's entropy counts for less than it should."""
    pair, own, sides = same_sides(toy, 3)
    published = Cdm(k=4, temperature=0.8, precision=EXACT, published=True)
    sides = [toy.side_of(x, toy.teacher_ids, pair.teacher, after=True) for x in (own.detach(), own)]
    assert abs(toy.total(published, *sides, pair).item()) > 1e-3
    assert not published.zero_at_identity


def test_gradients_against_finite_differences(toy, method):
    after = isinstance(method, Cdm) and method.published
    teacher, own, student = toy.sides(11, after=after)
    scored = student.scored.numpy()
    ahead = method.ahead(student.tokens, scored, method.signal(teacher, toy.document), toy.pair)

    def loss(rows):
        side = toy.side_of(rows, toy.student_ids, toy.pair.student, after=after)
        return method.loss(side, ahead, toy.pair, toy.empty).total

    rows = own.detach().requires_grad_()
    assert loss(rows).item() != 0
    assert torch.autograd.gradcheck(loss, (rows,), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_row_chunks_give_the_whole_tables_loss(toy, method, dtype, limit):
    after, results = isinstance(method, Cdm) and method.published, []
    for elements in (ELEMENTS_IN_MEMORY, 3 * len(toy.pair.student)):
        teacher, own, student = toy.sides(5, after=after, dtype=dtype, elements=elements)
        value = toy.total(method, teacher, student)
        value.backward()
        results.append((value.detach(), own.grad))
    torch.testing.assert_close(results[0], results[1], rtol=limit, atol=limit)


def test_every_option_changes_the_result(toy):
    families = [
        [
            Cdm(k=4),
            Cdm(k=3),
            Cdm(k=4, precision=EXACT),
            Cdm(k=4, precision="bfloat16"),
            Cdm(k=4, threshold=0.7),
            Cdm(k=4, threshold=0.0),
            Cdm(k=4, temperature=2.0),
            Cdm(k=4, temperature=2.0, times_temperature_squared=True),
            Cdm(k=4, published=True),
            Cdm(k=4, temperature=2.0, published=True),
            Cdm(k=4, threshold=0.7, published=True),
        ],
        [
            Mined(),
            Mined(k=2),
            Mined(precision=EXACT),
            Mined(precision="bfloat16"),
            Mined(match="soft", threshold=0.6),
            Mined(threshold=0.6),
            Mined(threshold=0.0),
            Mined(temperature=2.0),
            Mined(temperature=2.0, times_temperature_squared=True),
            Mined(k=4, published="dskd"),
            Mined(k=4, published="fusellm"),
            Mined(k=4, match="soft", published="dskd"),
        ],
    ]
    for methods in families:
        totals = {}
        for one in methods:
            after = isinstance(one, Cdm) and one.published
            teacher, _, student = toy.sides(17, after=after)
            totals[round(toy.total(one, teacher, student).item(), 9)] = one
        assert len(totals) == len(methods), [m for m in methods if m not in totals.values()]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Cdm, {"times_temperature_squared": True}),
        (Cdm, {"times_temperature_squared": True, "temperature": 2.0, "published": True}),
        (Cdm, {"k": 0}),
        (Cdm, {"threshold": -0.1}),
        (Mined, {"times_temperature_squared": True}),
        (Mined, {"threshold": 0.3, "published": "dskd"}),
        (Mined, {"match": "exact"}),
        (Mined, {"published": True}),
    ],
    ids=repr,
)
def test_useless_and_wrong_options_are_refused(kind, options):
    with pytest.raises(ValidationError):
        kind(**options)


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_nothing_scored(toy, method, side):
    teacher, own, student = toy.sides()
    none = torch.zeros(len(toy.student_ids) + 1, dtype=torch.bool)
    if side == "teacher":
        teacher = with_scored(toy, teacher, none)
    else:
        student = with_scored(toy, student, none)
    term = toy.term(method, teacher, student)
    assert (term.units, term.total.item()) == (0, 0)
    term.total.backward()
    assert own.grad.abs().max() == 0


def with_scored(toy, side, scored):
    return type(side)(
        tokens=side.tokens,
        hidden=side.hidden,
        head=side.head,
        vocabulary=side.vocabulary,
        scored=scored,
    )


def test_other_signals_and_missing_w_are_refused(toy, method):
    teacher, _, student = toy.sides()
    nothing = np.zeros(0, dtype=np.float32)
    wrong = TokenLikelihoods(nothing.astype(np.int32), nothing, nothing)
    scored = student.scored.numpy()
    with pytest.raises(ValueError, match="got a TokenLikelihoods signal but reads"):
        method.ahead(student.tokens, scored, wrong, toy.pair)
    with pytest.raises(ValueError, match="got a TokenLikelihoods signal but reads"):
        method.loss(student, wrong, toy.pair, toy.empty)
    with pytest.raises(ValueError, match=r"pass Pair\.projection"):
        toy.term(method, teacher, student, Pair(toy.pair.student, toy.pair.teacher))


def test_signals_hold_what_they_promise(toy):
    teacher, _, _ = toy.sides(dtype=torch.float32)
    tokens, rows, k = len(toy.teacher_ids) + 1, len(toy.teacher_ids), 3
    sizes = {
        Cdm(k=k): 12,
        Cdm(k=k, published=True): 16,
        Mined(k=k): 8,
        Mined(k=k, published="dskd"): 12,
    }
    for one, more in sizes.items():
        found = one.signal(teacher, toy.document).num_bytes
        assert found == 8 * tokens + rows * (6 * k + more), one


def test_only_the_first_token_of_an_unfit_row_is_taught_by_mined(toy):
    """`` c|ats`` is no single token of the teacher's: those rows are left out, or one-hot."""
    teacher, _, student = toy.sides(2)
    scored = student.scored.numpy()
    kept = Mined(precision=EXACT)
    rows = kept.ahead(student.tokens, scored, kept.signal(teacher, toy.document), toy.pair)
    assert set(rows.positions.tolist()).isdisjoint({1, 2})
    assert {3, 4} <= set(rows.positions.tolist())  # both write " run" and "."
    made = Mined(precision=EXACT, published="dskd")
    rows = made.ahead(student.tokens, scored, made.signal(teacher, toy.document), toy.pair)
    assert rows.positions.tolist() == list(range(len(toy.student_ids)))
    single = (rows.mass > -np.inf).sum(-1) == 1
    assert rows.ids[2, 0] == toy.student_ids[2]
    assert single[2]


def test_masses_of_mined_make_one(toy):
    """Tokens that meet add up; what has no near token is in the rest."""
    teacher, _, student = toy.sides(4)
    for method in (Mined(k=3, precision=EXACT), Mined(k=20, threshold=0.6, precision=EXACT)):
        signal = method.signal(teacher, toy.document)
        rows = method.ahead(student.tokens, student.scored.numpy(), signal, toy.pair)
        total = np.exp(rows.mass).sum(-1) + np.exp(rows.rest)
        np.testing.assert_allclose(total, 1, atol=1e-6)
        for ids, mass in zip(rows.ids, rows.mass, strict=True):
            assert len(set(ids[mass > -np.inf])) == (mass > -np.inf).sum()


def test_mined_by_hand(toy):
    """The teacher has " cats" 0.5, " cat" 0.2, "." 0.3; the student " cat" and "." alone."""
    words = [toy.vocabulary_of([" cat", "."]), toy.vocabulary_of([" cats", " cat", "."])]
    pair = toy.pair_of(*words)
    probs = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    teacher = toy.side_of(probs.log(), [2], pair.teacher)
    student = toy.side_of(torch.tensor([[0.6, 0.4]], dtype=torch.float64).log(), [1], pair.student)
    expected = 0.7 * np.log(0.7 / 0.6) + 0.3 * np.log(0.3 / 0.4)
    assert toy.total(Mined(precision=EXACT), teacher, student, pair).item() == (
        pytest.approx(expected, rel=1e-5)
    )
    alone = toy.total(Mined(threshold=0.0, precision=EXACT), teacher, student, pair).item()
    assert alone > expected  # " cats" is in the rest, where the student has nothing


def test_cdm_by_hand(toy):
    """One row each: pairs (" cat", 0.2 / 0.6), (".", 0.3 / 0.4), made distributions."""
    words = [toy.vocabulary_of([" cat", "."]), toy.vocabulary_of([" runs", " cat", "."])]
    pair = toy.pair_of(*words)
    probs = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    teacher = toy.side_of(probs.log(), [2], pair.teacher)
    student = toy.side_of(torch.tensor([[0.6, 0.4]], dtype=torch.float64).log(), [1], pair.student)
    expected = 0.4 * np.log(0.4 / 0.6) + 0.6 * np.log(0.6 / 0.4)
    found = toy.total(Cdm(precision=EXACT), teacher, student, pair).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_teachers_entropy_moves_the_path_of_cdm(toy):
    """The same distances under other weights."""
    method = Cdm(precision=EXACT)
    teacher, _, student = toy.sides(1)
    scored = student.scored.numpy()
    ahead = method.ahead(student.tokens, scored, method.signal(teacher, toy.document), toy.pair)
    base = method.loss(student, ahead, toy.pair, toy.empty).total.item()
    totals = set()
    for seed in range(20):
        entropy = np.random.default_rng(seed).random(len(ahead.sent.entropy)).astype(np.float32)
        moved = replace(ahead, sent=replace(ahead.sent, entropy=entropy))
        totals.add(method.loss(student, moved, toy.pair, toy.empty).total.item())
    assert totals - {base}
