"""The default label: the teacher's candidates as they are, the student among all other tokens."""

import math

import numpy as np
import pytest
import torch

from losses.methods.sedi import Sedi
from losses.reencoding.objective import pseudo_label_sums

EXACT = "float32"
CPU = torch.device("cpu")


def own_table(student, labels):
    return torch.log_softmax(student.hidden, -1)[labels.positions - 1].detach()


def label_of(table, labels, scale):
    """Row by row: listed tokens, then what is left by the student's scaled logits."""
    rows = []
    for own, ids, scores, rest in zip(
        table, labels.ids, labels.scores, labels.rest.tolist(), strict=True
    ):
        given = dict(zip(ids.tolist(), scores.tolist(), strict=True))
        others = [index for index in range(len(own)) if index not in given]
        fill = torch.log_softmax((scale * own)[others], -1) + rest
        row = [torch.tensor(0.0)] * len(own)
        for index, score in given.items():
            row[index] = own.new_tensor(score)
        for index, value in zip(others, fill, strict=True):
            row[index] = value
        rows.append(torch.stack([value.double() for value in row]))
    return torch.stack(rows)


@pytest.fixture
def scale(noise):
    return 1 + noise(23, seed=9, scale=0.2)


@pytest.mark.parametrize("k", [3, 6, 100])
def test_value_and_gradients_are_those_of_the_plain_form(world, scale, k):
    student = world.student()
    labels = world.ahead(Sedi(k=k, precision=EXACT), student=student)
    fast_scale, plain_scale = (scale.clone().requires_grad_() for _ in range(2))
    fast = pseudo_label_sums(student, labels, fast_scale)
    (0.7 * fast[0] + 1.9 * fast[1]).backward()
    logits = student.hidden.detach().clone().requires_grad_()
    table = torch.log_softmax(logits, -1)[labels.positions - 1]
    target = label_of(table.detach(), labels, plain_scale)
    np.testing.assert_allclose(target.exp().sum(-1).detach(), 1, atol=1e-5)
    kl = (target.detach().exp() * (target.detach() - table)).sum()
    entropy = -(target.exp() * target).sum(-1)
    gaps = ((entropy - labels.tensors(CPU).entropy) ** 2).sum()
    torch.testing.assert_close(fast.detach(), torch.stack([kl, gaps]).detach())
    (0.7 * kl + 1.9 * gaps).backward()
    torch.testing.assert_close(student.hidden.grad, logits.grad)
    torch.testing.assert_close(fast_scale.grad, plain_scale.grad)


def test_by_hand(world):
    """The teacher: " c" 0.5 then "ats" 0.8, "low" 0.2; " " 0.3, "s" 0.2. Two leave 0.3.

    What is left is "s" 0.2 and " clow" 0.1.
    """
    text = " cats"
    teacher = peaked(world, {1: {1: 0.5, 6: 0.3, 5: 0.2}, 2: {2: 0.8, 3: 0.2}}, text)
    labels = world.ahead(Sedi(k=2, precision=EXACT), teacher, world.student(text=text))
    assert labels.ids.tolist() == [[6, 21]]
    assert np.exp(labels.scores[0]).tolist() == pytest.approx([0.3, 0.4], abs=1e-5)
    assert np.exp(labels.rest[0]) == pytest.approx(0.3, abs=1e-5)
    wanted = -sum(p * math.log(p) for p in (0.4, 0.3, 0.2, 0.1))
    assert labels.entropy[0] == pytest.approx(wanted, abs=1e-4)


def test_candidates_that_share_a_token_are_as_unsure_as_one(world):
    """After " c" comes "l", "low", "a": the first two begin with the student's " cl"."""
    text = " cats"
    teacher = peaked(world, {1: {1: 1.0}, 2: {10: 0.3, 3: 0.4, 8: 0.3}}, text)
    labels = world.ahead(Sedi(k=3, precision=EXACT), teacher, world.student(text=text))
    found = dict(zip(labels.ids[0].tolist(), np.exp(labels.scores[0]).tolist(), strict=True))
    assert found == pytest.approx({3: 0.7, 1: 0.3}, abs=1e-5)
    wanted = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert labels.entropy[0] == pytest.approx(wanted, abs=1e-4)


def test_a_later_row_is_relative_to_what_begins_so(world):
    """Candidates: " clowder" 0.6, " clows" 0.2; " cats" 0.1 begins otherwise, " cl" 0.1 ends."""
    text = " clowder"
    rows = {1: {1: 1.0}, 2: {3: 0.8, 2: 0.1, 10: 0.1}, 3: {4: 0.75, 5: 0.25}}
    labels = world.ahead(
        Sedi(k=4, precision=EXACT), peaked(world, rows, text), world.student(text=text)
    )
    second = dict(zip(labels.ids[1].tolist(), np.exp(labels.scores[1]).tolist(), strict=True))
    assert second == pytest.approx({4: 0.6 / 0.9, 11: 0.2 / 0.9}, abs=1e-4)
    assert np.exp(labels.rest[1]) == pytest.approx(0.1 / 0.9, abs=1e-4)


def test_dropped_candidates_leave_their_mass_to_the_rest(world):
    """A special token that the student does not have, and half a character."""
    teacher = peaked(world, {1: {16: 0.5, 24: 0.3, 20: 0.2}}, "1")
    labels = world.ahead(Sedi(k=3, precision=EXACT), teacher, world.student(text="1"))
    assert labels.ids.tolist() == [[16]]
    assert np.exp(labels.rest[0]) == pytest.approx(0.5, abs=1e-5)


def test_repeated_steps_end_at_the_teacher_s_candidates(world):
    """A student that is its own label once more does not become surer than the teacher."""
    text = "1"
    teacher = peaked(world, {1: {16: 0.5, 17: 0.3, 15: 0.2}}, text)
    found = {}
    for own in ("rest", "added"):
        hidden = world.student(text=text).hidden.detach()
        labels = world.ahead(Sedi(k=3, own=own, precision=EXACT), teacher, world.student(text=text))
        for _ in range(30):
            hidden = hidden.clone().requires_grad_()
            student = world.predict(
                hidden, world.student(text=text).tokens, world.student_vocabulary
            )
            pseudo_label_sums(student, labels, torch.ones(23).double())[0].backward()
            hidden = hidden.detach() - 4 * hidden.grad
        found[own] = torch.softmax(hidden[0], -1)[[16, 17, 15]].tolist()
    assert found["rest"] == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    assert found["added"][0] > 0.9


def peaked(world, probabilities, text):
    """A teacher whose rows are told by the position of the token that they predict."""
    tokens = world.tokens_of(world.teacher_vocabulary, text)
    table = torch.full((len(tokens), len(world.teacher_vocabulary)), 1e-12, dtype=torch.float64)
    for position, row in probabilities.items():
        for index, probability in row.items():
            table[position - 1, index] = probability
    return world.predict(table.log(), tokens, world.teacher_vocabulary)
