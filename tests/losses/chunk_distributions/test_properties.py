"""What p_kl, h_kl, gold and uld promise whatever the numbers are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses.base import Pair
from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld
from losses.prediction import ELEMENTS_IN_MEMORY

EXACT = "float32"


def same_vocabulary(toy):
    """The teacher's vocabulary on both sides."""
    rows = [[(index, 1.0)] for index in range(toy.num_teacher)]
    names = toy.names(toy.num_teacher)
    return Pair(names, names, projection=toy.sparse(rows, toy.num_teacher))


@settings(max_examples=6)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.1, 2.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_never_negative(toy, chain, seed, scale, dtype):
    teacher, student = toy.sides(seed, dtype, scale=scale)
    value = toy.total(chain, teacher, student)
    assert value.item() >= 0
    assert value.isfinite()
    value.backward()
    assert student.hidden.grad.isfinite().all()


@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), gap=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3]))
def test_never_negative_by_rounding(toy, noise, chain, seed, gap):
    """Models that nearly agree: in float32 the exact loss is below what rounding adds."""
    pair = same_vocabulary(toy)
    teacher, _ = toy.sides(seed, torch.float32)
    moved = teacher.hidden + gap * noise(*teacher.hidden.shape, seed=seed + 1).float()
    student = toy.side(moved, toy.teacher_ends, ids=teacher.tokens.ids)
    assert toy.total(chain, teacher, student, pair).item() >= 0


def test_finite_where_models_are_certain(toy, method):
    teacher, student = toy.sides(scale=500.0, dtype=torch.float32)
    value = toy.total(method, teacher, student)
    value.backward()
    assert value.isfinite()
    assert student.hidden.grad.isfinite().all()


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_zero_with_zero_gradient_at_identity(toy, chain, seed):
    teacher, _ = toy.sides(seed)
    logits = teacher.hidden.clone().requires_grad_()
    student = toy.side(logits, toy.teacher_ends, ids=teacher.tokens.ids)
    pair = same_vocabulary(toy)
    value = toy.total(chain, teacher, student, pair)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    # |x| has no derivative at zero, so the sorted parts may keep one of order one
    if isinstance(chain, PKl | HKl):
        assert logits.grad.abs().max().item() < 1e-5


def test_gradients_against_finite_differences(toy, method):
    teacher, student = toy.sides(3)
    signal = method.signal(teacher, toy.document)

    def loss(logits):
        own = toy.side(logits, toy.student_ends, ids=student.tokens.ids)
        return method.loss(own, signal, toy.pair, toy.empty).total

    logits = student.hidden.detach().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits,), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_row_chunks_give_the_whole_tables_loss(toy, method, dtype, limit):
    results = []
    for elements in (ELEMENTS_IN_MEMORY, 2 * toy.num_teacher):
        _, student = toy.sides(5, dtype, elements)
        teacher, _ = toy.sides(5, dtype)
        value = toy.total(method, teacher, student)
        value.backward()
        results.append((value.detach(), student.hidden.grad))
    torch.testing.assert_close(results[0], results[1], rtol=limit, atol=limit)


def moved_side(toy, side, ends, order):
    """The same prediction with its vocabulary in another order."""
    return toy.side(side.hidden[:, order], ends, ids=np.argsort(order)[side.tokens.ids])


@settings(max_examples=8)
@given(seed=st.integers(0, 1_000))
def test_unchanged_by_renumbering_both_vocabularies(toy, chain, seed):
    teacher, student = toy.sides(seed)
    random = np.random.default_rng(seed)
    of_student, of_teacher = (
        random.permutation(toy.num_student),
        random.permutation(toy.num_teacher),
    )
    new_teacher = np.argsort(of_teacher)
    rows = [[(int(new_teacher[t]), w) for t, w in toy.w.row(int(s)).items()] for s in of_student]
    moved = Pair(toy.pair.student, toy.pair.teacher, projection=toy.sparse(rows, toy.num_teacher))
    if getattr(chain, "common", "strict") != "strict":  # ties go to the lowest id
        return
    other = toy.total(
        chain,
        moved_side(toy, teacher, toy.teacher_ends, of_teacher),
        moved_side(toy, student, toy.student_ends, of_student),
        moved,
    )
    assert other.item() == pytest.approx(toy.total(chain, teacher, student).item(), abs=1e-6)


def test_padding_tokens_change_nothing(toy, noise, method):
    teacher, student = toy.sides(7)
    wider = [
        toy.side(
            torch.cat([x.hidden, noise(2, x.hidden.shape[1], seed=9)]),
            [*ends, -1, -1],
            ids=np.append(x.tokens.ids, [0, 0]),
        )
        for x, ends in ((teacher, toy.teacher_ends), (student, toy.student_ends))
    ]
    assert toy.total(method, *wider).item() == pytest.approx(
        toy.total(method, teacher, student).item(), abs=1e-6
    )


@pytest.mark.parametrize("kind", [PKl, Gold, Uld])
def test_fewer_listed_tokens_never_see_more(toy, kind):
    """A coarser cut of the same distributions cannot tell them better apart."""
    options = {"beta": 0.0, "matched_weight": 1.0, "unmatched_weight": 0.0} if kind is Gold else {}
    teacher, student = toy.sides(23)
    values = [
        toy.total(kind(k=k, precision=EXACT, **options), teacher, student).item()
        for k in range(1, 11)
    ]
    assert values[0] < values[-1]
    assert max(values) <= values[-1] + 1e-6
