"""KL and Jensen-Shannon of a few cells: values by hand, rounding, unreachable cells."""

import math

import pytest
import torch

from losses.chunk_distributions.cell_divergence import cell_js, cell_kl

DIRECTIONS = ["forward", "reverse"]


def distributions(seed, rows=2000, cells=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, cells, generator=generator, dtype=dtype).softmax(-1)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_distributions_are_zero_and_never_below(direction):
    masses = distributions(0)
    values = cell_kl(masses.log(), masses, direction)
    assert (values >= 0).all()
    assert values.max() < 1e-6
    values = cell_js(masses.log(), masses, 0.3)
    assert (values >= 0).all()
    assert values.max() < 1e-6


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_where_rounding_would_be_negative_the_gradient_is_still_right(direction):
    """The value is raised to zero there; a clamp would also cut the gradient off."""
    teacher = distributions(1)
    near = (teacher * (1 + 3e-5 * distributions(2))).clone()
    near = near / near.sum(-1, keepdim=True)
    rows = []
    for dtype in (torch.float32, torch.float64):
        student = near.detach().clone().to(dtype).requires_grad_()
        values = cell_kl(teacher.to(dtype).log(), student, direction)
        values.sum().backward()
        rows.append((values.detach(), student.grad))
    assert (rows[0][0] >= 0).all()
    assert (rows[0][0] == 0).any()
    torch.testing.assert_close(rows[0][1].double(), rows[1][1], rtol=1e-3, atol=1e-5)


def test_by_hand():
    teacher = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    student = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    forward = 0.5 * math.log(2.5) + 0.2 * math.log(0.4)
    assert cell_kl(teacher.log(), student, "forward").item() == pytest.approx(forward)
    reverse = 0.2 * math.log(0.4) + 0.5 * math.log(2.5)
    assert cell_kl(teacher.log(), student, "reverse").item() == pytest.approx(reverse)


def test_mass_the_student_cannot_reach_goes_to_the_last_cell():
    teacher = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    student = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64)
    assert cell_kl(teacher.log(), student, "forward").item() == pytest.approx(0, abs=1e-12)
    # nothing can be left over: the teacher is conditioned on what can be reached
    student = torch.tensor([[0.625, 0.375, 0.0]], dtype=torch.float64)
    assert cell_kl(teacher.log(), student, "forward").item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradient_against_finite_differences(direction):
    teacher, student = (distributions(s, 3, dtype=torch.float64) for s in (3, 4))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cell_kl(teacher.log(), x, direction), (student,))
    assert torch.autograd.gradcheck(lambda x: cell_js(teacher.log(), x, 0.3), (student,))
