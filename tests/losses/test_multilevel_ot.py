"""multilevel_ot: a reference of the published code, our levels by definition, properties.

The reference holds whole tables in float64 and follows the published code step by step.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.multilevel_ot import MultilevelOt
from losses.optimal_transport.columns import _greedy, standardised
from losses.optimal_transport.sinkhorn import transport_cost

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "multilevel_ot" / "multilevelot.json").read_text()
)
PARTS = GOLDEN["parts"]
TOLERANCE = 2e-6
WEIGHT = 1.5
"""The published weight of the whole, which is the user's here."""
DOCUMENT, EMPTY = text_document("d", "not read"), nn.ModuleDict()
STUDENT_ENDS = [-1, 2, 3, 6, 7, 9, 10, 12, 14]
TEACHER_ENDS = [-1, 1, 2, 3, 7, 8, 9, 10, 14]  # chunks begin at 0, 2, 3, 7, 9, 10
STUDENT_ROWS, TEACHER_ROWS = [0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 6, 7]
WHOLE = 2**25


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def words(size):
    return Vocabulary((None, *(b"t%d" % index for index in range(1, size))), {0: "end"})


PAIR = Pair(words(9), words(11))


def answer(logits, labels):
    """The rows from the one before the first label on, as many as there are labels."""
    asked = [label != -100 for label in labels]
    first = max(0, asked.index(True) - 1)
    return logits[first : first + sum(asked)]


def divided(logits):
    return (logits / (logits.std(-1, keepdim=True) + 1e-4)).softmax(-1)


def greedy(teacher, student, *, mixed_up):
    """The published code takes the number of rows for that of the columns."""
    count, choice = teacher.shape[2], student.shape[2]
    if mixed_up:
        count, choice = teacher.shape[1], student.shape[1]
    found = torch.zeros_like(teacher)
    for index, (theirs, ours) in enumerate(zip(teacher, student, strict=True)):
        free = list(range(choice))
        for column in range(count):
            costs = [(theirs[:, column] - ours[:, other]).abs().sum() for other in free]
            best = free.pop(int(torch.stack(costs).argmin()))
            found[index, :, column] = ours[:, best]
    return found


def reference(student, teacher, *, form, mixed_up=True):
    """The published loss of a batch of answers, times its weight."""
    sizes = [[len(rows) for rows in side] for side in (student, teacher)]
    longest = max(map(max, sizes))
    tables = [
        torch.stack(
            [nn.functional.pad(divided(rows), (0, 0, 0, longest - len(rows))) for rows in side]
        )
        for side in (student, teacher)
    ]
    orders = [table.sum((0, 1)).argsort(descending=True) for table in tables]
    theirs = tables[1][:, :, orders[1]][:, :, :50]
    if form == "sorted":
        ours = tables[0][:, :, orders[0]][:, :, :50]
    else:
        ours = greedy(theirs, tables[0], mixed_up=mixed_up)
    width = max(ours.shape[2], theirs.shape[2])
    ours, theirs = (nn.functional.pad(t, (0, width - t.shape[2])) for t in (ours, theirs))
    counts = [min(pair) for pair in zip(*sizes, strict=True)]
    tokens = [
        (s[:n] - t[:n]).abs().sum(-1).mean() for s, t, n in zip(ours, theirs, counts, strict=True)
    ]
    logs = -(ours.softmax(-1) * theirs.log_softmax(-1)).sum(-1).mean()
    sequence = sum(
        published_sinkhorn(torch.cdist((t / 2).softmax(-1), (s / 2).softmax(-1), p=1))
        for s, t in zip(ours, theirs, strict=True)
    )
    return WEIGHT * (torch.stack(tokens).mean() + 0.1 * logs + 0.1 * 0.001 * sequence)


def published_sinkhorn(cost):
    plan = torch.exp(-cost / 0.1)
    for _ in range(10):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return (plan * cost).sum()


def answers_of(case):
    return [
        [
            answer(double(x), y)
            for x, y in zip(case[f"{s}_logits"], case[f"{s}_labels"], strict=True)
        ]
        for s in ("student", "teacher")
    ]


VALUED = [(case, form) for case in GOLDEN["cases"] for form in case["outputs"]]
each = pytest.mark.parametrize(
    ("case", "form"), VALUED, ids=[f"{case['name']}-{form}" for case, form in VALUED]
)


@each
def test_reference(case, form):
    student, teacher = answers_of(case)
    found = reference(student, teacher, form={"f1": "sorted", "f2": "greedy"}[form])
    expected = case["outputs"][form]["distillation"]
    assert found.item() == pytest.approx(expected, abs=TOLERANCE)


@each
def test_published_option(predict, case, form):
    """Against the recorded value where it is one document and the axes are not mixed up."""
    if len(case["student_logits"]) > 1:
        pytest.skip("sorted and padded over a batch; ours is a document")
    student, teacher = answers_of(case)
    matching = {"f1": "sorted", "f2": "greedy"}[form]
    method = MultilevelOt(published=True, matching=matching)
    logits = student[0].requires_grad_()
    ours = predict(nn.functional.pad(logits, (0, 0, 0, 1)))
    theirs = predict(nn.functional.pad(teacher[0], (0, 0, 0, 1)))
    pair = Pair(ours.vocabulary, theirs.vocabulary)
    signal = method.signal(theirs, DOCUMENT)
    term = method.loss(ours, signal, pair, EMPTY)
    assert term.units == min(len(student[0]), len(teacher[0]))
    assert method.num_units(ours.tokens, ours.scored.numpy(), signal, pair) == term.units
    found = WEIGHT * term.total / term.units
    expected = reference([logits], teacher, form=matching, mixed_up=False)
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)
    if form == "f1":
        recorded = case["outputs"][form]["distillation"]
        assert found.item() == pytest.approx(recorded, abs=TOLERANCE)


def test_parts():
    given = PARTS["normalize"]
    rows, expected = double(given["input"]).flatten(0, 1), double(given["output"]).flatten(0, 1)
    torch.testing.assert_close(standardised(rows, 1.0), expected.softmax(-1), rtol=0, atol=1e-12)
    given = PARTS["sinkhorn_plan"]
    cost = transport_cost(double(given["cost"]), 0.1, 10, masses_of_one=True)
    assert cost.item() == pytest.approx(given["loss"], abs=TOLERANCE)
    given = PARTS["sinkhorn_seq"]
    tables = zip(double(given["a"]), double(given["b"]), strict=True)
    costs = [torch.cdist((a / 2).softmax(-1), (b / 2).softmax(-1), p=1) for a, b in tables]
    total = sum(transport_cost(cost, 0.1, 10, masses_of_one=True) for cost in costs)
    assert 0.001 * total.item() == pytest.approx(given["output"], abs=TOLERANCE)
    given = PARTS["greedy"]
    teacher, student = double(given["teacher"]), double(given["student"])
    found = greedy(teacher, student, mixed_up=True)
    torch.testing.assert_close(found, double(given["output"]), rtol=0, atol=1e-12)
    given = PARTS["sequence_sort"]
    table = double(given["input"])
    order = table.sum((0, 1)).argsort(descending=True)
    torch.testing.assert_close(table[:, :, order], double(given["output"]), rtol=0, atol=1e-12)


def test_greedy_takes_each_column_once():
    costs = double([[0.1, 0.2, 0.9], [0.0, 0.3, 0.4], [0.0, 0.0, 0.1]])
    assert _greedy(costs).tolist() == [0, 1, 2]


def sides(predict, noise, seed=0, elements=WHOLE, dtype=torch.float64):
    teacher = predict(noise(9, 11, seed=seed).to(dtype), TEACHER_ENDS, elements=elements)
    logits = noise(9, 9, seed=seed + 1).to(dtype).requires_grad_()
    return teacher, predict(logits, STUDENT_ENDS, elements=elements)


def run(method, teacher, student, pair=PAIR):
    signal = method.signal(teacher, DOCUMENT)
    term = method.loss(student, signal, pair, EMPTY)
    scored = student.scored.numpy()
    assert method.num_units(student.tokens, scored, signal, pair) == term.units
    return term


def test_by_definition(predict, noise):
    """Four columns and the rest, at the rows that begin the same chunk."""
    teacher, student = sides(predict, noise)
    cells = []
    for side in (teacher, student):
        table = divided(side.hidden[:8])
        listed = table[:, table.sum(0).argsort(descending=True)[:4]]
        cells.append(torch.cat([listed, 1 - listed.sum(-1, keepdim=True)], -1))
    t, s = cells[0][TEACHER_ROWS], cells[1][STUDENT_ROWS]
    tokens, logs = (t - s).abs().sum(), (t * (t.log() - s.log())).sum()
    plan = sinkhorn_plan(cost := torch.cdist(*cells, p=1), 0.1, 10)
    expected = tokens + 0.3 * logs + 0.7 * 6 * (plan * cost).sum()
    method = MultilevelOt(k=4, logarithmic_weight=0.3, sequence_weight=0.7)
    term = run(method, teacher, student)
    assert (term.units, term.total.item()) == (6, pytest.approx(expected.item(), rel=1e-9))


def sinkhorn_plan(cost, epsilon, iterations):
    """The textbook form: rows to 1 / n, columns to 1 / m."""
    plan = torch.exp(-cost / epsilon)
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdim=True) / plan.shape[0]
        plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
    return plan


def test_transport_between_sequences_of_unequal_length():
    """One point onto two: half of its mass goes to each."""
    cost = double([[1.0, 3.0]])
    assert transport_cost(cost, 0.1, 5).item() == pytest.approx(2.0)
    far = double([[0.0, 1e4], [1e4, 0.0]])
    assert transport_cost(far, 1e-3, 5).item() == pytest.approx(0.0)
    assert transport_cost(double([[0.0, 0.0]] * 3), 0.1, 1).item() == 0.0


METHODS = [
    MultilevelOt(k=4),
    MultilevelOt(),
    MultilevelOt(k=4, matching="greedy"),
    MultilevelOt(k=4, published=True),
    MultilevelOt(k=4, matching="greedy", published=True),
]
every = pytest.mark.parametrize("method", METHODS, ids=repr)


@every
def test_row_chunks_change_nothing(predict, noise, method):
    results = []
    for elements in (WHOLE, 1, 3 * 11):
        teacher, student = sides(predict, noise, elements=elements)
        total = run(method, teacher, student).total
        results.append((total, *torch.autograd.grad(total, student.hidden)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@every
def test_gradient(predict, noise, method):
    teacher, student = sides(predict, noise)
    signal = method.signal(teacher, DOCUMENT)

    def total(logits):
        return method.loss(predict(logits, STUDENT_ENDS), signal, PAIR, EMPTY).total

    assert torch.autograd.gradcheck(total, student.hidden, fast_mode=True)


@pytest.mark.parametrize("matching", ["sorted", "greedy"])
def test_zero_at_identity_without_the_sequence(predict, noise, matching):
    """The entropic plan blurs, so that the sequence's cost of two equal ones is not zero."""
    method = MultilevelOt(matching=matching, sequence_weight=0.0)
    logits = noise(9, 9)
    teacher, student = (predict(x, STUDENT_ENDS) for x in (logits, logits.clone()))
    pair = Pair(words(9), words(9))
    assert method.zero_at_identity
    assert run(method, teacher, student, pair).total.item() == pytest.approx(0, abs=1e-12)
    assert not MultilevelOt(matching=matching).zero_at_identity
    assert run(MultilevelOt(matching=matching), teacher, student, pair).total.item() > 1e-4


def test_every_option_changes_the_result(predict, noise):
    teacher, student = sides(predict, noise, seed=4)
    options = [
        {},
        {"k": 4},
        {"k": 4, "matching": "greedy"},
        {"student_temperature": 2.0},
        {"teacher_temperature": 2.0},
        {"logarithmic_weight": 0.5},
        {"sequence_weight": 0.5},
        {"epsilon": 0.5},
        {"iterations": 1},
        {"published": True},
    ]
    totals = [run(MultilevelOt(**one), teacher, student).total.item() for one in options]
    assert len({round(total, 9) for total in totals}) == len(options)


@every
def test_document_without_a_scored_token(predict, noise, method):
    teacher, _ = sides(predict, noise)
    logits = noise(9, 9).requires_grad_()
    student = predict(logits, STUDENT_ENDS, scored=np.zeros(9, dtype=bool))
    term = run(method, teacher, student)
    term.total.backward()
    assert (term.units, term.total.item()) == (0, 0.0)
    assert logits.grad.abs().sum() == 0
    empty = predict(noise(9, 11), TEACHER_ENDS, scored=np.zeros(9, dtype=bool))
    full = predict(noise(9, 9).requires_grad_(), STUDENT_ENDS)
    assert run(method, empty, full).total.item() == 0.0


def test_signal_is_small_and_knows_no_student(predict, noise):
    teacher, _ = sides(predict, noise, dtype=torch.float32)
    signal = MultilevelOt(k=4).signal(teacher, DOCUMENT)
    rows = len(signal.positions)
    assert signal.probabilities.shape == (rows, 4)
    assert signal.num_bytes == 4 * 9 + rows * (4 + 4 * 4)
    sums = signal.probabilities.sum(0)
    assert (np.diff(sums) <= 0).all()
    assert math.isclose(
        MultilevelOt().signal(teacher, DOCUMENT).probabilities.sum(), rows, rel_tol=1e-5
    )


def test_greedy_needs_enough_student_tokens():
    method = MultilevelOt(matching="greedy", published=True)
    with pytest.raises(ValueError, match="needs 11 student tokens, there are 9"):
        method.check(PAIR)
    method.check(Pair(words(11), words(11)))
    MultilevelOt(matching="greedy").check(PAIR)
