"""Ensembles in chunks against plain loops over bytes, and the laws of an ensemble."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from losses.alignment.tokens import Tokens, byte_starts
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.ensembles import Said
from losses.ensembles.chunks import ChunkEnsemble
from losses.methods.alm import Alm
from losses.signals import TokenLikelihoods

STUDENT = Vocabulary((None, b" a", b"b", b"cd", b"\n", b" e"), {0: "end"})
PAIR, EMPTY = Pair(STUDENT, STUDENT), nn.ModuleDict()
BARE = Alm(debias=False, merge_threshold=None, temperature=2.0)
FULL = Alm(temperature=2.0, merge_threshold=0.4)
ENDS = [-1, 2, 3, 5, 6, 8]
IDS = [0, 1, 2, 3, 4, 5]
both = pytest.mark.parametrize("mean", ["arithmetic", "geometric"])


def likelihoods(ends, seed: int, masked=()) -> TokenLikelihoods:
    numbers = np.random.default_rng(seed)
    values = np.log(numbers.uniform(0.05, 0.95, (2, len(ends)))).astype(np.float32)
    values[:, [i for i, end in enumerate(ends) if end < 0 or i in masked]] = np.nan
    return TokenLikelihoods(np.array(ends, dtype=np.int32), values[0], values[1])


def said(*signals, weights=None) -> list[Said]:
    chosen = weights or [1.0] * len(signals)
    return [Said(i, w, s) for i, (s, w) in enumerate(zip(signals, chosen, strict=True))]


@pytest.fixture
def student(predict, noise):
    def make(scored=None, seed=7):
        logits = noise(len(ENDS), len(STUDENT), seed=seed, scale=1.0)
        return predict(logits, ENDS, ids=IDS, vocabulary=STUDENT, scored=scored)

    return make


def combined(method, mean, members, student) -> tuple[Alm, TokenLikelihoods]:
    ensemble = ChunkEnsemble(method, mean)
    found = ensemble.combined(student.tokens, student.scored.numpy(), members, STUDENT)
    assert isinstance(found, TokenLikelihoods)
    return ensemble.method, found


def loss(method, mean, members, student):
    own, signal = combined(method, mean, members, student)
    term = own.loss(student, signal, PAIR, EMPTY)
    units = own.num_units(student.tokens, student.scored.numpy(), signal, PAIR)
    assert term.units == units
    return term


def mean_of(values, weights, mean) -> float:
    total = sum(weights)
    if mean == "arithmetic":
        return sum(w * p for w, p in zip(weights, values, strict=True)) / total
    heads = math.prod(p ** (w / total) for w, p in zip(weights, values, strict=True))
    tails = math.prod((1 - p) ** (w / total) for w, p in zip(weights, values, strict=True))
    return heads / (heads + tails)


def pieces_of(members, student) -> list[tuple[int, int, dict]]:
    """First byte and end of each finest common chunk, and what each present member says of it."""
    borders = sorted({3, 5, 6, 8, 2}.intersection(*(m.signal.byte_ends.tolist() for m in members)))
    pieces = []
    for low, high in zip([0, *borders[:-1]], borders, strict=True):
        inside = [low < end <= high for end in ENDS]
        values = {}
        for m in members:
            own = [i for i, end in enumerate(m.signal.byte_ends) if low < end <= high]
            logs = m.signal.logprob[own]
            if student.scored[inside].all() and not np.isnan(logs).any():
                values[m.member] = (float(logs.sum()), float(m.signal.border_logprob[own[-1]]))
        pieces.append((low, high, values))
    return pieces


def brute_force(method, mean, members, student) -> list[tuple[int, int, float]]:
    """First byte, end and the ensemble's probability of each joined chunk, by loops over bytes."""
    groups: list[list] = []
    is_open = False
    for low, high, values in pieces_of(members, student):
        if not values:
            is_open = False
            continue
        if is_open and set(groups[-1][2]) == set(values):
            group = groups[-1]
            group[1] = high
            for k, (logs, border) in values.items():
                group[2][k] = (group[2][k][0] + logs, border)
        else:
            groups.append([low, high, dict(values)])
        weights = [members[k].weight for k in values]
        border = mean_of([math.exp(b) for _, b in values.values()], weights, mean)
        is_open = method.merge_threshold is not None and border <= method.merge_threshold
    found = []
    for low, high, values in groups:
        logs = [a + b if method.debias else a for a, b in values.values()]
        weights = [members[k].weight for k in values]
        found.append((low, high, mean_of([math.exp(x) for x in logs], weights, mean)))
    return found


A = [-1, 1, 3, 6, 8]
B = [2, 3, 6, -1, 7, 8]
C = [3, 5, 6, 8]


@both
@pytest.mark.parametrize(
    "method",
    [BARE, FULL, replace(FULL, debias=False)],
    ids=lambda m: f"debias={m.debias},merge={m.merge_threshold},{m.chunks}",
)
@settings(max_examples=12)
@given(seed=st.integers(0, 999), masked=st.sampled_from([(), (2,), (4,), (1, 3)]))
def test_against_loops(student, method, mean, seed, masked):
    model = student(seed=seed)
    members = said(
        likelihoods(A, seed),
        likelihoods(B, seed + 1, masked),
        likelihoods(C, seed + 2),
        weights=[1.0, 0.5, 2.0],
    )
    _, signal = combined(method, mean, members, model)
    known = np.isfinite(signal.logprob)
    starts = byte_starts(signal.byte_ends.astype(np.int64))
    total = (signal.logprob + signal.border_logprob)[known]
    expected = brute_force(method, mean, members, model)
    assert [(a, b) for a, b, _ in expected] == [
        (a, b)
        for a, b in zip(starts[known].tolist(), signal.byte_ends[known].tolist(), strict=True)
    ]
    np.testing.assert_allclose(total, np.log([p for *_, p in expected]), rtol=1e-5)


@both
def test_the_loss_by_hand(student, mean):
    """Borders common to all: 3, 6, 8; the coins of the ensemble against the student's."""
    model = student()
    members = said(likelihoods(A, 1), likelihoods(B, 2), weights=[1.0, 3.0])
    own = model.logprob_of_scored().tolist()
    total = 0.0
    for (_, high, p), tokens in zip(
        brute_force(BARE, mean, members, model), [(0, 2), (2, 4), (4, 5)], strict=True
    ):
        assert high in (3, 6, 8)
        a, b = math.log(p) / 2 - 1e-6, sum(own[slice(*tokens)]) / 2 - 1e-6
        total += math.exp(a) * (a - b)
        total += (1 - math.exp(a)) * (math.log(1 - math.exp(a)) - math.log(1 - math.exp(b)))
    term = loss(BARE, mean, members, model)
    assert term.units == 3
    assert term.total.item() == pytest.approx(total, rel=1e-5)


@both
@pytest.mark.parametrize(
    "method", [BARE, FULL, Alm(chunks="space", merge_threshold=None)], ids=repr
)
@pytest.mark.parametrize("ends", [A, B, C])
def test_equal_teachers_are_one(student, method, mean, ends):
    model, one = student(), likelihoods(ends, 5, masked=(2,))
    found = loss(method, mean, said(one, one, weights=[1.0, 2.0]), model)
    alone = method.loss(model, one, PAIR, EMPTY)
    assert found.units == alone.units
    assert found.total.item() == pytest.approx(alone.total.item(), rel=1e-4, abs=1e-6)


@both
def test_order_does_not_matter(student, mean):
    model, a, b = student(), likelihoods(A, 1), likelihoods(B, 2)
    one = loss(FULL, mean, said(a, b, weights=[1.0, 3.0]), model).total
    other = loss(FULL, mean, said(b, a, weights=[3.0, 1.0]), model).total
    assert one.item() == pytest.approx(other.item(), rel=1e-6)


@both
def test_all_the_weight_on_one(student, mean):
    """Its likelihoods then decide, on the borders of both."""
    model, a = student(), likelihoods(A, 1)
    b = likelihoods(A, 2)
    nearly = loss(BARE, mean, said(a, b, weights=[1.0, 1e-9]), model).total
    alone = BARE.loss(model, a, PAIR, EMPTY).total
    assert nearly.item() == pytest.approx(alone.item(), rel=1e-4)


def test_the_means_differ(student):
    model, members = student(), said(likelihoods(A, 1), likelihoods(A, 2))
    totals = [loss(BARE, m, members, model).total.item() for m in ("arithmetic", "geometric")]
    assert abs(totals[0] - totals[1]) > 1e-3


def test_where_a_member_is_masked_the_other_has_all(student):
    """The chunk 3 to 6 is A's alone; its borders stay common ones."""
    model, a, b = student(), likelihoods(A, 1), likelihoods(B, 2, masked=(2,))
    _, signal = combined(BARE, "arithmetic", said(a, b, weights=[1.0, 9.0]), model)
    place = signal.byte_ends.tolist().index(6)
    assert signal.logprob[place] == pytest.approx(float(a.logprob[3]), rel=1e-5)
    both_masked = said(likelihoods(A, 1, masked=(3,)), b)
    _, signal = combined(BARE, "arithmetic", both_masked, model)
    assert np.isnan(signal.logprob[signal.byte_ends.tolist().index(6)])


def test_unscored_student_tokens_count_for_nobody(student):
    model = student(scored=[False, True, True, False, True, True])
    term = loss(BARE, "arithmetic", said(likelihoods(A, 1), likelihoods(B, 2)), model)
    assert term.units == 2


def test_another_document_is_refused(student):
    with pytest.raises(ValueError, match="tokens end at byte 6, the student's at byte 8"):
        loss(BARE, "arithmetic", said(likelihoods(A, 1), likelihoods([3, 6], 2)), student())


def test_borders_in_common_with_one_teacher_only(student):
    """One chunk is left: the whole document."""
    members = said(likelihoods([5, 8], 1), likelihoods([3, 8], 2))
    assert loss(BARE, "arithmetic", members, student()).units == 1


def test_what_has_no_meaning_for_several_teachers_is_refused():
    with pytest.raises(ValueError, match="a bias file belongs to one teacher"):
        ChunkEnsemble(Alm(chunks="unbiased", bias_file="/x"), "arithmetic")
    with pytest.raises(ValueError, match="counts the tokens of one teacher"):
        ChunkEnsemble(Alm(weighting="token_count"), "arithmetic")


def test_a_border_of_the_end_alone():
    """The method of the result is valid whatever the members' options."""
    method = Alm(border="end", debias=False, merge_threshold=0.5)
    assert ChunkEnsemble(method, "geometric").method.merge_threshold is None
    assert ChunkEnsemble(replace(method, debias=True), "geometric").method.border == "end"


def test_tokens_of_zero_width_part_no_chunk(student):
    tokens = Tokens(np.array([0, 1, 0, 2]), np.array([-1, 2, -1, 3]))
    one = likelihoods([2, -1, 3], 3)
    found = ChunkEnsemble(BARE, "arithmetic").combined(
        tokens, np.array([False, True, False, True]), said(one, one), STUDENT
    )
    assert isinstance(found, TokenLikelihoods)
    assert found.byte_ends.tolist() == [2, 3]
    assert torch.isfinite(torch.from_numpy(found.logprob)).all()
