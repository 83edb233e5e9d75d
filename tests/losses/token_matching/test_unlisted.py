"""The mass that is not listed, where one minus the rest would be nothing but rounding."""

import pytest
import torch

from losses.methods.mined import Mined
from losses.token_matching.unlisted import unlisted_mass

IDS = torch.tensor([[2, 0], [1, 0]])
LISTED = torch.tensor([[True, True], [True, False]])


def test_by_hand():
    logprobs = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]]).log()
    assert unlisted_mass(logprobs, IDS, LISTED).tolist() == pytest.approx([0.6, 0.8])


def test_nothing_cancels():
    """In float32 what is left of one is a multiple of 6e-8."""
    exact = torch.tensor([[0.0, -40.0, 30.0, -41.0]], dtype=torch.float64).log_softmax(-1)
    ids, listed = torch.tensor([[2, 0]]), torch.tensor([[True, True]])
    left = unlisted_mass(exact.float(), ids, listed)
    assert left.item() == pytest.approx(exact[0, [1, 3]].exp().sum().item(), rel=1e-5)
    assert 0 < left.item() < 1e-30


def test_gradient(noise):
    rows = noise(2, 4).log_softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: unlisted_mass(r, IDS, LISTED), rows)


def test_mined_in_float32_is_as_in_float64(toy):
    """Both models all but sure of the same tokens: only what is left differs."""
    found = []
    for dtype in (torch.float32, torch.float64):
        rows = torch.full((len(toy.teacher_ids), len(toy.pair.teacher)), -20.0, dtype=dtype)
        rows[range(len(rows)), list(toy.teacher_ids)] = 0.0
        own = torch.full((len(toy.student_ids), len(toy.pair.student)), -17.0, dtype=dtype)
        own[range(len(own)), list(toy.student_ids)] = 0.0
        own.requires_grad_()
        teacher = toy.side_of(rows, toy.teacher_ids, toy.pair.teacher)
        student = toy.side_of(own, toy.student_ids, toy.pair.student)
        toy.total(Mined(k=3, precision="float32"), teacher, student).backward()
        own.grad[range(len(own)), list(toy.student_ids)] = 0  # sums of large terms that cancel
        found.append(own.grad.double())
    assert found[1].abs().max() > 1e-8
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-12)
