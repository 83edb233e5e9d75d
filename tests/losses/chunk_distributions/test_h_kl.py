"""H-KL beside a P-KL that trains W: tokens are matched by the learned weights."""

import pytest
import torch
from torch import nn

from losses.chunk_distributions.columns import columns_of
from losses.chunk_distributions.learned_w import LearnedWeights
from losses.chunk_distributions.matched import matched_by, matched_of
from losses.methods.h_kl import HKl

CPU = torch.device("cpu")
METHOD = HKl(precision="float32")


@pytest.fixture
def learned(toy):
    return LearnedWeights(columns_of(toy.w, CPU))


def loss(toy, modules):
    teacher, student = toy.sides(31)
    return METHOD.loss(student, METHOD.signal(teacher, toy.document), toy.pair, modules).total


def test_starts_at_w_as_it_was_built(toy, learned):
    fixed, ours = loss(toy, toy.empty), loss(toy, nn.ModuleDict({"w": learned}))
    assert ours.item() == pytest.approx(fixed.item(), abs=1e-12)


@pytest.mark.parametrize("common", ["top1", "relaxed", "strict"])
def test_pairs_are_those_of_w_as_it_was_built(toy, common):
    columns = columns_of(toy.w, CPU)
    by_weights = matched_by(columns.weights, columns, toy.w, common)
    built = matched_of(toy.w, CPU, common)
    assert by_weights.students.tolist() == built.students.tolist()
    assert by_weights.teachers.tolist() == built.teachers.tolist()
    assert by_weights.other_students.tolist() == built.other_students.tolist()


def test_other_weights_match_other_tokens(toy, learned):
    """Student token 6 leads to 7, 8 and 2; turned round, 8 has no better claim than its own."""
    columns = columns_of(toy.w, CPU)
    weights = torch.zeros_like(columns.weights)
    for entry, student in enumerate(columns.students.tolist()):
        teacher = int(torch.searchsorted(columns.starts, entry, right=True)) - 1
        weights[entry] = 0.8 if (student, teacher) == (6, 8) else 0.1
    matched = matched_by(weights, columns, toy.w, "top1")
    pairs = dict(zip(matched.students.tolist(), matched.teachers.tolist(), strict=True))
    assert pairs[6] == 8
    built = matched_of(toy.w, CPU, "top1")
    assert dict(zip(built.students.tolist(), built.teachers.tolist(), strict=True))[6] == 7
    before = loss(toy, nn.ModuleDict({"w": learned}))
    learned.log_weights.data = weights.log().float()
    after = loss(toy, nn.ModuleDict({"w": learned}))
    assert after.item() != pytest.approx(before.item(), rel=1e-3)


def test_w_gets_no_gradient(toy, learned):
    loss(toy, nn.ModuleDict({"w": learned})).backward()
    assert learned.log_weights.grad is None
