"""The kl method: exact distributions from hidden states, options, refusals."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from losses import divergence
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.kl import Kl
from losses.prediction import Head, Prediction
from losses.signals import TokenLikelihoods

VOCAB, WHOLE = 9, 2**25
VOCABULARY = Vocabulary((None, *(b"t%d" % index for index in range(1, VOCAB))), {0: "end"})
DOCUMENT = text_document("d", "not read by kl")
EMPTY = nn.ModuleDict()
CHOICES = [
    Kl(),
    Kl(temperature=2.0),
    Kl(temperature=2.0, times_temperature_squared=True),
    Kl(divergence="reverse"),
    Kl(divergence="skewed_forward"),
    Kl(divergence="skewed_forward", skew=0.4),
    Kl(divergence="skewed_reverse"),
    Kl(divergence="skewed_reverse", skew=0.4),
    Kl(divergence="js"),
    Kl(divergence="js", beta=0.2),
    Kl(divergence="adaptive"),
    Kl(divergence="adaptive", alpha=0.8),
    Kl(divergence="tvd"),
    Kl(divergence="tvd", temperature=2.0),
]
every = pytest.mark.parametrize("method", CHOICES, ids=repr)


def head(noise, hidden, seed, dtype=torch.float64, **options):
    layer = nn.Linear(hidden, VOCAB + 3, bias=False, dtype=dtype)  # three padded rows
    with torch.no_grad():
        layer.weight.copy_(noise(VOCAB + 3, hidden, seed=seed, scale=1.0))
    return Head(layer, VOCAB, **options)


def side(hidden, head, scored=(False, True, True, False, True), elements=WHOLE):
    return Prediction(
        tokens=Tokens(np.array([0, 3, 1, 4, 2]), np.array([-1, 2, 4, 5, 7])),
        hidden=hidden,
        head=head,
        vocabulary=VOCABULARY,
        scored=torch.tensor(scored),
        elements_in_memory=elements,
    )


def setup(noise, dtype=torch.float64, elements=WHOLE):
    teacher_head = head(noise, 6, 1, dtype, softcap=4.0)
    teacher = side(noise(5, 6, seed=2).to(dtype), teacher_head)
    hidden = noise(5, 4, seed=3).to(dtype).requires_grad_()
    student = side(hidden, head(noise, 4, 4, dtype), elements=elements)
    return teacher, student, Pair(VOCABULARY, VOCABULARY, teacher_head)


def full(prediction, temperature=1.0):
    """Rows 0, 1 and 3 predict the scored tokens 1, 2 and 4."""
    return torch.log_softmax(prediction.head.logits(prediction.hidden[[0, 1, 3]]) / temperature, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_against_full_tables(noise, dtype):
    teacher, student, pair = setup(noise, dtype)
    method = Kl()
    signal = method.signal(teacher, DOCUMENT)
    term = method.loss(student, signal, pair, EMPTY)
    p, q = full(teacher).double(), full(student).double()
    assert term.total.item() == pytest.approx((p.exp() * (p - q)).sum().item(), abs=1e-5)
    assert term.units == 3
    assert method.num_units(student.tokens, student.scored.numpy(), signal, pair) == 3


def test_temperature_by_definition(noise):
    teacher, student, pair = setup(noise)
    signal = Kl().signal(teacher, DOCUMENT)
    expected = divergence.js(full(teacher, 3.0), full(student, 3.0), 0.25).sum()
    method = Kl(divergence="js", beta=0.25, temperature=3.0)
    torch.testing.assert_close(method.loss(student, signal, pair, EMPTY).total, expected)
    squared = Kl(divergence="js", beta=0.25, temperature=3.0, times_temperature_squared=True)
    torch.testing.assert_close(squared.loss(student, signal, pair, EMPTY).total, 9 * expected)


@every
def test_row_chunks_change_nothing(noise, method):
    results = []
    for elements in (WHOLE, 1, 2 * VOCAB):
        teacher, student, pair = setup(noise, elements=elements)
        term = method.loss(student, method.signal(teacher, DOCUMENT), pair, EMPTY)
        weight = student.head.linear.weight
        results.append((term.total, *torch.autograd.grad(term.total, [student.hidden, weight])))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize(
    "method", [method for method in CHOICES if method.divergence != "adaptive"], ids=repr
)
def test_gradient_to_the_hidden_states(noise, method):
    teacher, student, pair = setup(noise)
    signal = method.signal(teacher, DOCUMENT)

    def total(hidden):
        return method.loss(side(hidden, student.head), signal, pair, EMPTY).total

    assert torch.autograd.gradcheck(total, student.hidden, fast_mode=True)


@every
def test_zero_when_student_is_teacher(noise, method):
    teacher, _, pair = setup(noise)
    student = side(teacher.hidden.clone().requires_grad_(), teacher.head)
    term = method.loss(student, method.signal(teacher, DOCUMENT), pair, EMPTY)
    (gradient,) = torch.autograd.grad(term.total, student.hidden)
    assert term.total.abs() < 1e-13
    if method.divergence != "tvd":  # its gradient is a sign
        assert gradient.abs().max() < 1e-13


def test_the_teacher_gets_no_gradient(noise):
    teacher, student, pair = setup(noise)
    Kl(divergence="js").loss(student, Kl().signal(teacher, DOCUMENT), pair, EMPTY).total.backward()
    assert pair.teacher_head.linear.weight.grad is None
    assert student.head.linear.weight.grad is not None


def test_every_choice_gives_its_own_loss(noise):
    teacher, student, pair = setup(noise)
    signal = Kl().signal(teacher, DOCUMENT)
    totals = [method.loss(student, signal, pair, EMPTY).total.item() for method in CHOICES]
    assert len({round(total, 9) for total in totals}) == len(CHOICES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signal_carries_the_states_of_predicting_rows(noise, dtype):
    teacher = side(noise(5, 6).to(dtype), head(noise, 6, 1, dtype))
    signal = Kl().signal(teacher, DOCUMENT)
    assert signal.positions.tolist() == [0, 1, 3]
    assert signal.byte_ends.tolist() == [-1, 2, 4, 5, 7]
    assert signal.num_bytes == 2 * 5 * 4 + 3 * 4 + 3 * 6 * dtype.itemsize


def test_bfloat16_states_arrive_unchanged(noise):
    bf16 = torch.bfloat16
    teacher_head = head(noise, 6, 1, bf16)
    teacher = side(noise(5, 6).to(bf16), teacher_head)
    student = side(noise(5, 6).to(bf16), teacher_head)
    signal = Kl().signal(teacher, DOCUMENT)
    term = Kl().loss(student, signal, Pair(VOCABULARY, VOCABULARY, teacher_head), EMPTY)
    assert term.total.item() == 0


def test_other_tokens_are_refused(noise):
    teacher, student, pair = setup(noise)
    other = Prediction(
        tokens=Tokens(np.array([0, 3, 1, 4, 2]), np.array([-1, 1, 4, 5, 7])),
        hidden=student.hidden,
        head=student.head,
        vocabulary=VOCABULARY,
        scored=student.scored,
    )
    signal = Kl().signal(teacher, DOCUMENT)
    with pytest.raises(ValueError, match="expected the same tokens"):
        Kl().loss(other, signal, pair, EMPTY)
    twin = Prediction(
        tokens=Tokens(np.array([0, 3, 1, 4, 5]), student.tokens.byte_ends),
        hidden=student.hidden,
        head=student.head,
        vocabulary=VOCABULARY,
        scored=student.scored,
    )
    with pytest.raises(ValueError, match="expected the same tokens"):
        Kl().loss(twin, signal, pair, EMPTY)
    rescored = side(student.hidden, student.head, scored=(False, True, True, True, True))
    with pytest.raises(ValueError, match="sent 3 rows, the student reads 5 tokens and scores 4"):
        Kl().loss(rescored, signal, pair, EMPTY)


def test_other_vocabulary_is_refused():
    other = Vocabulary(VOCABULARY.token_bytes[:-1], {0: "end"})
    Kl().check(Pair(VOCABULARY, VOCABULARY))
    with pytest.raises(ValueError, match=r"one vocabulary.*use alm"):
        Kl().check(Pair(VOCABULARY, other))


def test_missing_head_and_wrong_signal_are_refused(noise):
    teacher, student, pair = setup(noise)
    with pytest.raises(ValueError, match="teacher_head"):
        Kl().loss(student, Kl().signal(teacher, DOCUMENT), Pair(VOCABULARY, VOCABULARY), EMPTY)
    nothing = np.zeros(0, dtype=np.float32)
    wrong = TokenLikelihoods(nothing.astype(np.int32), nothing, nothing)
    with pytest.raises(ValueError, match="reads HiddenStates"):
        Kl().loss(student, wrong, pair, EMPTY)


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.5},
        {"divergence": "reverse", "skew": 0.1},
        {"divergence": "js", "alpha": 0.5},
        {"divergence": "tvd", "beta": 0.5},
        {"times_temperature_squared": True},
        {"divergence": "js", "beta": 1.5},
        {"divergence": "skewed_forward", "skew": 1.0},
        {"temperature": 0.0},
        {"divergence": "forwards"},
        {"unknown": 1},
    ],
    ids=repr,
)
def test_useless_and_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        Kl(**options)


def test_nothing_scored(noise):
    teacher, student, pair = setup(noise)
    none = (False,) * 5
    silent = side(student.hidden, student.head, scored=none)
    signal = Kl().signal(side(teacher.hidden, teacher.head, scored=none), DOCUMENT)
    term = Kl().loss(silent, signal, pair, EMPTY)
    assert (term.units, term.total.item()) == (0, 0)
