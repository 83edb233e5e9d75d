"""The loss of sedi: gradients, units, options, and what it must not depend on."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from losses.methods.sedi import Sedi
from losses.reencoding.objective import pseudo_label_sums
from losses.reencoding.pseudo_labels import PseudoLabels
from losses.reencoding.published import pseudo_label_losses
from losses.signals import TokenLikelihoods

EXACT = "float32"
METHODS = [
    Sedi(k=6, own="added", precision=EXACT),
    Sedi(k=6, window="last", precision=EXACT),
    Sedi(k=6, published=True, precision=EXACT),
    Sedi(k=6, precision=EXACT),
]
STEP = 1e-6


@pytest.fixture(params=METHODS, ids=repr)
def method(request):
    return request.param


@pytest.fixture
def scale(noise):
    return 1 + noise(23, seed=9, scale=0.2)


def labels_of(world, method, teacher=None, student=None):
    labels = world.ahead(method, teacher, student)
    assert isinstance(labels, PseudoLabels)
    return labels


def test_units_are_known_ahead(world, method):
    student = world.student()
    labels = labels_of(world, method)
    term = method.loss(student, labels, world.pair, world.modules(method))
    known = method.num_units(student.tokens, student.scored.numpy(), labels, world.pair)
    assert term.units == known == len(labels.positions) > 0
    assert method.unit == "tokens"
    if method.published:
        assert known == int(student.scored.sum())


def test_the_fast_form_is_the_plain_one(world, scale):
    """Value, and both gradients with target and student held constant where they must be."""
    method = METHODS[0]
    student, labels = world.student(), labels_of(world, method)
    fast_scale, plain_scale = (scale.clone().requires_grad_() for _ in range(2))
    fast = pseudo_label_sums(student, labels, fast_scale)
    (0.7 * fast[0] + 1.9 * fast[1]).backward()
    logits = student.hidden.detach().clone().requires_grad_()
    table = torch.log_softmax(logits, -1)[labels.positions - 1]
    tensors = labels.tensors(torch.device("cpu"))
    pseudo = (plain_scale * table.detach()).scatter_add(-1, tensors.ids, tensors.scores.double())
    target = torch.log_softmax(pseudo, -1)
    kl = (target.exp() * (target - table)).detach().sum()
    to_student = -(target.detach().exp() * table).sum()
    entropy = -(target.exp() * target).sum(-1)
    gaps = ((entropy - tensors.entropy) ** 2).sum()
    torch.testing.assert_close(fast.detach(), torch.stack([kl, gaps.detach()]))
    (0.7 * to_student + 1.9 * gaps).backward()
    torch.testing.assert_close(student.hidden.grad, logits.grad)
    torch.testing.assert_close(fast_scale.grad, plain_scale.grad)


def test_gradient_to_the_student_by_differences(world):
    """The pseudo-label stays what it was at the start."""
    labels = labels_of(world, METHODS[0])
    ones = torch.ones(len(world.student_vocabulary), dtype=torch.float64)
    student = world.student()
    pseudo_label_sums(student, labels, ones)[0].backward()
    rows, tensors = labels.positions - 1, labels.tensors(torch.device("cpu"))
    start = torch.log_softmax(student.hidden.detach(), -1)[rows]
    target = torch.log_softmax(start.scatter_add(-1, tensors.ids, tensors.scores.double()), -1)

    def kl(hidden):
        return (target.exp() * (target - torch.log_softmax(hidden, -1)[rows])).sum().item()

    for row, column in [(0, 21), (1, 3), (2, 4), (5, 17), (3, 0)]:
        shifted = [student.hidden.detach().clone() for _ in range(2)]
        shifted[0][row, column] += STEP
        shifted[1][row, column] -= STEP
        slope = (kl(shifted[0]) - kl(shifted[1])) / (2 * STEP)
        assert student.hidden.grad[row, column].item() == pytest.approx(slope, abs=1e-7)


def test_gradcheck_of_the_adapter(world, scale):
    labels, student = labels_of(world, METHODS[0]), world.student()
    assert torch.autograd.gradcheck(
        lambda factors: pseudo_label_sums(student, labels, factors)[1], [scale.requires_grad_()]
    )


def test_gradcheck_of_the_published_form(world, scale):
    method, text = METHODS[2], " clowder"
    labels = labels_of(world, method, world.teacher(text=text), world.student(text=text))
    modules, tokens = world.modules(method), world.student(text=text).tokens

    def total(hidden, factors):
        student = world.predict(hidden, tokens, world.student_vocabulary)
        module = _Loss(method, world.pair, modules)
        return torch.func.functional_call(module, {"adapter.scale": factors}, (student, labels))

    assert len(labels.positions) == 2
    hidden = world.student(text=text).hidden
    assert torch.autograd.gradcheck(total, [hidden, scale.requires_grad_()])


class _Loss(torch.nn.Module):
    """The method's loss as a module, whose parameters can be put in place."""

    def __init__(self, method, pair, modules):
        super().__init__()
        self.method, self.pair = method, pair
        self.adapter = modules["adapter"]

    def forward(self, student, labels):
        modules = torch.nn.ModuleDict({"adapter": self.adapter})
        return self.method.loss(student, labels, self.pair, modules).total


@pytest.mark.parametrize("published", [False, True])
def test_gradients_stop_where_they_must(world, published):
    """The student learns from the KL, the adapter from the entropies; published, each from both."""
    found = []
    for weight in (1.0, 3.0):
        method = Sedi(k=6, precision=EXACT, published=published, entropy_weight=weight)
        student, modules = world.student(), world.modules(method)
        term = method.loss(student, labels_of(world, method), world.pair, modules)
        parts = term.metrics
        assert term.total.item() == pytest.approx((parts["kl"] + weight * parts["entropy"]).item())
        term.total.backward()
        found.append((student.hidden.grad, modules["adapter"].scale.grad))
    same = torch.allclose(found[0][0], found[1][0], atol=1e-12)
    tripled = torch.allclose(3 * found[0][1], found[1][1], atol=1e-12)
    assert (same, tripled) == (not published, not published)
    assert found[0][1].abs().max() > 1e-3


def test_chunks_of_rows_change_nothing(world, method, scale):
    found = []
    for elements in (2**25, 2 * len(world.student_vocabulary)):
        student, modules = world.student(elements=elements), world.modules(method, scale)
        term = method.loss(student, labels_of(world, method), world.pair, modules)
        term.total.backward()
        found.append((term.total.detach(), student.hidden.grad, modules["adapter"].scale.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_long_document_without_groups(world):
    """The teacher says nothing about it."""
    student, method = world.student(elements=1), METHODS[0]
    teacher = world.teacher(scored=[False] * len(world.teacher().tokens))
    labels = world.ahead(method, teacher, student)
    term = method.loss(student, labels, world.pair, world.modules(method))
    assert (term.total.item(), term.units) == (0, 0)
    term.total.backward()


def flat(world, student, score, entropy):
    """Every token of every row gets the same score."""
    size, positions = len(world.student_vocabulary), student.scored_positions.numpy()
    rows = len(positions)
    return PseudoLabels(
        byte_ends=np.zeros(0, dtype=np.int32),
        logprob=np.zeros(0, dtype=np.float32),
        positions=positions,
        groups=np.arange(rows),
        entropy=entropy,
        ids=np.tile(np.arange(size, dtype=np.int32), (rows, 1)),
        scores=np.full((rows, size), score, dtype=np.float32),
        rest=np.zeros(rows, dtype=np.float32),
        own="added",
        num_left_out=0,
    )


@pytest.mark.parametrize("score", [0.0, 4.0])
def test_zero_where_the_label_is_the_student(world, score):
    """Equal scores on all tokens move nothing."""
    student, method = world.student(), METHODS[0]
    entropy = student.entropy(student.scored_positions - 1).detach().numpy().astype(np.float32)
    labels = flat(world, student, score, entropy)
    term = method.loss(student, labels, world.pair, world.modules(method))
    assert term.total.item() == pytest.approx(0, abs=1e-9)
    term.total.backward()
    assert student.hidden.grad.abs().max() < 1e-9


def test_an_offset_of_either_side_changes_nothing(world, scale):
    plain = world.loss(METHODS[0], scale=scale).total
    moved = world.loss(METHODS[0], world.teacher(shift=5.0), world.student(shift=-3.0), scale)
    torch.testing.assert_close(moved.total, plain, rtol=1e-4, atol=0)
    published = [
        world.loss(METHODS[2], student=world.student(shift=shift), scale=scale).total.item()
        for shift in (0.0, -3.0)
    ]
    assert abs(published[0] - published[1]) > 1e-2


def test_every_option_changes_the_result(world):
    methods = [
        Sedi(k=6),
        Sedi(k=5),
        Sedi(k=6, precision=EXACT),
        Sedi(k=6, precision="bfloat16"),
        Sedi(k=6, window="last"),
        Sedi(k=6, own="added"),
        Sedi(k=6, published=True),
        Sedi(k=6, entropy_weight=0.5),
    ]
    totals = {round(world.loss(method).total.item(), 9) for method in methods}
    assert len(totals) == len(methods)
    assert Sedi().modules_learning_rate == 0.001
    assert Sedi(adapter_learning_rate=0.2).modules_learning_rate == 0.2


@pytest.mark.parametrize(
    "options",
    [
        {"published": True, "window": "last"},
        {"published": True, "own": "added"},
        {"k": 0},
        {"window": "first"},
        {"entropy_weight": 0.0},
        {"adapter_learning_rate": 0.0},
        {"unknown": 1},
    ],
    ids=repr,
)
def test_useless_and_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        Sedi(**options)


def test_other_signals_and_documents_are_refused(world, method):
    nothing = np.zeros(0, dtype=np.float32)
    wrong = TokenLikelihoods(nothing.astype(np.int32), nothing, nothing)
    student = world.student()
    with pytest.raises(ValueError, match="reads TopTokensWithEntropy"):
        method.ahead(student.tokens, student.scored.numpy(), wrong, world.pair)
    with pytest.raises(ValueError, match="reads PseudoLabels"):
        method.loss(
            student,
            method.signal(world.teacher(), world.document),
            world.pair,
            world.modules(method),
        )
    with pytest.raises(ValueError, match="end at byte 5, the student's at byte 24"):
        world.ahead(method, world.teacher(text=" cats"), student)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_the_signal_holds_what_it_promises(world, precision):
    teacher = world.teacher()
    signal = Sedi(k=7, precision=precision).signal(teacher, world.document)
    width, rows, tokens = (
        4 if precision == EXACT else 2,
        int(teacher.scored.sum()),
        len(teacher.tokens),
    )
    assert signal.num_bytes == 8 * tokens + rows * (16 + 7 * (4 + width))
    entropy = teacher.entropy(teacher.scored_positions - 1).numpy()
    np.testing.assert_allclose(signal.entropy, entropy, rtol=1e-6)
    assert not signal.level.any()
    raw = Sedi(k=7, published=True).signal(teacher, world.document)
    levels = teacher.hidden.logsumexp(-1)[teacher.scored_positions - 1].numpy()
    np.testing.assert_allclose(raw.level, levels, rtol=1e-6)


def test_the_plain_objective_by_hand():
    """Two tokens: the student at 1/2 each, a score of ln 3 on the first."""
    logits = torch.zeros(1, 2, dtype=torch.float64)
    scores = torch.tensor([[3.0]], dtype=torch.float64).log()
    rows = pseudo_label_losses(
        logits, torch.ones(2).double(), torch.tensor([[0]]), scores, torch.zeros(1).double()
    )
    # the label is 3/4, 1/4: KL = 0.75 ln 1.5 + 0.25 ln 0.5; entropy 0.5623351
    assert rows[0].tolist() == pytest.approx([0.1308120, 0.5623351**2], abs=1e-6)
