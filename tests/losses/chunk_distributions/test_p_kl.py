"""What only P-KL promises: numerals, multi-token chunks, a W that can be learned."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.chunk_distributions.columns import columns_of
from losses.chunk_distributions.learned_w import LearnedWeights
from losses.document import text_document
from losses.methods.h_kl import HKl
from losses.methods.p_kl import PKl
from losses.prediction import Head, Prediction

DOCUMENT, EMPTY = text_document("d", "not read"), nn.ModuleDict()
STUDENT = Vocabulary((b"0", b"1", b"2", b"20", b"201", b" ", b"a", b"b"))
TEACHER = Vocabulary((b"0", b"1", b"2", b" ", b"a", b"b"))
WEIGHTS = [0.9, 0.09, 0.009]


def projection():
    rows = [[0], [1], [2], [2, 0], [2, 0, 1], [3], [4], [5]]
    weights = [np.array(WEIGHTS[: len(row)]) / sum(WEIGHTS[: len(row)]) for row in rows]
    return Projection(
        offsets=np.cumsum([0, *(len(row) for row in rows)]),
        teacher_ids=np.array([t for row in rows for t in row]),
        weights=np.concatenate(weights).astype(np.float32),
        num_teacher=len(TEACHER),
        exact=np.array([len(row) == 1 for row in rows]),
    )


PAIR = Pair(STUDENT, TEACHER, projection=projection())
# " 201a": both start with a space that nothing predicts; then the numeral, then "a"
STUDENT_TOKENS = Tokens(np.array([5, 4, 6]), np.array([1, 4, 5]))
TEACHER_TOKENS = Tokens(np.array([3, 2, 0, 1, 4]), np.array([1, 2, 3, 4, 5]))


def predict(logits, tokens, vocabulary):
    return Prediction(
        tokens=tokens,
        hidden=logits,
        head=Head(nn.Identity(), len(vocabulary)),
        vocabulary=vocabulary,
        scored=torch.arange(len(tokens)) > 0,
    )


def digit_teacher(sure=0.9):
    """It writes 2, 0, 1 and "a" with this probability each."""
    probs = torch.full((5, len(TEACHER)), (1 - sure) / (len(TEACHER) - 1), dtype=torch.float64)
    probs[torch.arange(4), torch.tensor([2, 0, 1, 4])] = sure
    return predict(probs.log(), TEACHER_TOKENS, TEACHER)


def test_the_minimiser_writes_the_numeral_as_often_as_the_teacher():
    method = PKl(precision="float32")
    signal = method.signal(digit_teacher(), DOCUMENT)
    logits = torch.zeros(3, len(STUDENT), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=400, tolerance_grad=1e-10)

    def loss():
        optimizer.zero_grad()
        student = predict(logits, STUDENT_TOKENS, STUDENT)
        value = method.loss(student, signal, PAIR, EMPTY).total
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(loss)
    probs = logits.softmax(-1)[0]
    assert probs[4].item() == pytest.approx(0.9**3, abs=1e-4)
    # the cell of "2" gets the rest of 0.9, shared by "2" and by 0.909 of "20"
    assert probs[2].item() + WEIGHTS[0] / 0.99 * probs[3].item() == pytest.approx(
        0.9 - 0.9**3, abs=1e-3
    )
    assert loss().item() == pytest.approx(0, abs=1e-4)


def gradient_norms(method):
    """At the row that predicts "201" and at the one that predicts "a"."""
    logits = torch.zeros(3, len(STUDENT), dtype=torch.float64, requires_grad=True)
    student = predict(logits, STUDENT_TOKENS, STUDENT)
    method.loss(
        student, method.signal(digit_teacher(0.999), DOCUMENT), PAIR, EMPTY
    ).total.backward()
    return logits.grad[:2].norm(dim=-1).tolist()


@pytest.mark.parametrize("method", [PKl(), HKl(common="strict")], ids=repr)
def test_a_chunk_of_several_tokens_teaches_as_much_as_its_neighbour(method):
    several, single = gradient_norms(method)
    assert 0.5 < several / single < 2


def test_the_published_mean_hardly_teaches_it():
    several, single = gradient_norms(PKl(chunk="mean"))
    assert several / single < 0.02


def test_one_student_chunk_split_by_the_student_reads_both_rows(noise):
    """The teacher's one token, the student's three: the joint probability is its cell."""
    student = predict(
        noise(4, len(TEACHER)).requires_grad_(),
        Tokens(np.array([3, 2, 0, 1]), np.array([1, 2, 3, 4])),
        TEACHER,
    )
    teacher = predict(
        noise(2, len(STUDENT), seed=1), Tokens(np.array([5, 4]), np.array([1, 4])), STUDENT
    )
    exact = Projection(
        offsets=np.array([0, 1, 2, 3, 4, 5, 5]),
        teacher_ids=np.array([0, 1, 2, 5, 6]),
        weights=np.ones(5, dtype=np.float32),
        num_teacher=len(STUDENT),
        exact=np.array([True] * 5 + [False]),
    )
    method = PKl(precision="float32")
    pair = Pair(TEACHER, STUDENT, projection=exact)
    value = method.loss(student, method.signal(teacher, DOCUMENT), pair, EMPTY).total
    p = student.hidden.detach().softmax(-1)
    q = teacher.hidden.softmax(-1)[0]
    joint = p[0, 2] * p[1, 0] * p[2, 1]
    cells = [
        (q[0], p[0, 0]),
        (q[1], p[0, 1]),
        (q[2], p[0, 2] - joint),
        (q[4], joint),
        (q[5], p[0, 3]),
        (q[6], p[0, 4]),
        (q[3] + q[7], p[0, 5]),  # "20" has no student token; here "b" has no partner either
    ]
    expected = sum(t * torch.log(t / s) for t, s in cells)
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    value.backward()
    assert (student.hidden.grad[:3].norm(dim=-1) > 1e-3).all()


def test_learned_w_starts_at_w_and_learns():
    method, fixed = PKl(learnable_w=True, precision="float32"), PKl(precision="float32")
    modules = method.modules(PAIR)
    torch.manual_seed(0)
    logits = torch.randn(3, len(STUDENT), dtype=torch.float64)
    student = predict(logits, STUDENT_TOKENS, STUDENT)
    signal = method.signal(digit_teacher(), DOCUMENT)
    start = method.loss(student, signal, PAIR, modules).total
    assert start.item() == pytest.approx(
        fixed.loss(student, signal, PAIR, EMPTY).total.item(), abs=1e-6
    )
    optimizer = torch.optim.Adam(modules.parameters(), lr=method.modules_learning_rate)
    for _ in range(100):
        optimizer.zero_grad()
        value = method.loss(student, signal, PAIR, modules).total
        value.backward()
        optimizer.step()
    assert value.item() < start.item() - 1e-4
    columns = columns_of(PAIR.projection, torch.device("cpu"))
    sums = torch.zeros(len(STUDENT)).index_add(
        0, columns.students.long(), modules["w"](columns).detach()
    )
    torch.testing.assert_close(sums, torch.ones(len(STUDENT)))
    assert method.modules_learning_rate == 1e-2
    assert PKl(learnable_w=True, w_learning_rate=0.5).modules_learning_rate == 0.5
    assert PKl().modules_learning_rate is None


def test_gradient_of_learned_w_against_finite_differences(noise):
    method = PKl(k=3, learnable_w=True, precision="float32")
    signal = method.signal(digit_teacher(), DOCUMENT)
    student = predict(noise(3, len(STUDENT)), STUDENT_TOKENS, STUDENT)
    students = COLUMNS.students.long()

    def loss(logs):
        rows = [logs[students == s].softmax(0) for s in range(len(STUDENT))]
        values = torch.zeros_like(logs)
        for s, row in enumerate(rows):
            values = values.index_put(((students == s).nonzero()[:, 0],), row)
        return method.loss(student, signal, PAIR, nn.ModuleDict({"w": Held(values)})).total

    logs = COLUMNS.weights.log().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logs,), atol=1e-6)
    # the module's grid is finer than its float32: the gradient passes it unchanged
    learned = LearnedWeights(COLUMNS).double()
    method.loss(student, signal, PAIR, nn.ModuleDict({"w": learned})).total.backward()
    expected = torch.autograd.grad(loss(logs), logs)[0]
    torch.testing.assert_close(learned.log_weights.grad, expected, rtol=1e-4, atol=1e-6)


COLUMNS = columns_of(PAIR.projection, torch.device("cpu"))


class Held(nn.Module):
    """Weights that were worked out elsewhere."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, columns):
        return self.values


def test_w_has_its_parameter_in_one_submodule():
    module = PKl(learnable_w=True).modules(PAIR)
    assert [name for name, _ in module.named_parameters()] == ["w.log_weights"]
    assert not list(PKl().modules(PAIR).parameters())
    with pytest.raises(ValueError, match=r"pass Pair\.projection"):
        PKl(learnable_w=True).modules(Pair(STUDENT, TEACHER))
