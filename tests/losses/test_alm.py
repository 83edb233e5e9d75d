"""The alm method against a brute force in plain loops, its laws and its options."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from losses.alignment.tokens import scored_tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.alm import Alm

DOCUMENT, EMPTY, WHOLE = text_document("d", "not read by alm"), nn.ModuleDict(), 2**25
STUDENT = Vocabulary((None, b" a", b"b", b"cd", b"\n", b"\xc3", b"\xa9"), {0: "end"})
TEACHER = Vocabulary((None, b"ab", b" c", b"d", b"d"), {0: "end"})
PAIR = Pair(STUDENT, TEACHER)
STUDENT_ENDS, TEACHER_ENDS = [-1, 2, 3, 5, 6, 8, 9], [-1, 1, 3, 6, -1, 8, 9]
# common borders 3, 6, 8, 9: student chunks (1 2)(3 4)(5)(6), teacher (1 2)(3)(5)(6)
CHOICES = [
    Alm(),
    Alm(temperature=5.0),
    Alm(divergence="binary_ce"),
    Alm(divergence="reverse_binary_kl"),
    Alm(divergence="abs_exp"),
    Alm(divergence="binary_kl_temp_limit"),
    Alm(divergence="abs"),
    Alm(divergence="renyi"),
    Alm(divergence="renyi", alpha=0.5),
    Alm(divergence="joschu_k2"),
    Alm(divergence="joschu_k3"),
    Alm(debias=False),
    Alm(merge_threshold=None),
    Alm(merge_threshold=0.95),
    Alm(debias=False, merge_threshold=None),
    Alm(border="end"),
    Alm(weighting="token_count"),
    Alm(weighting="log1p_token_count"),
    Alm(chunks="space", merge_threshold=None),
]
every = pytest.mark.parametrize("method", CHOICES, ids=repr)


@pytest.fixture
def setup(predict, noise):
    def make(elements=WHOLE, student_scored=None, teacher_scored=None, seed=0):
        logits = noise(7, len(STUDENT), seed=seed + 1, scale=1.0).requires_grad_()
        student = predict(
            logits,
            STUDENT_ENDS,
            ids=[0, 1, 2, 3, 4, 5, 6],
            vocabulary=STUDENT,
            scored=student_scored,
            elements=elements,
        )
        teacher = predict(
            noise(7, len(TEACHER), seed=seed + 2, scale=3.0),
            TEACHER_ENDS,
            ids=[0, 1, 2, 3, 0, 4, 1],
            vocabulary=TEACHER,
            scored=teacher_scored,
            elements=elements,
        )
        return student, teacher

    return make


def total_of(method, student, teacher):
    return method.loss(student, method.signal(teacher, DOCUMENT), PAIR, EMPTY)


def brute_force(method, student, teacher):
    """Sum of |difference| over groups, and their number, token by token from full tables."""
    tables = [torch.log_softmax(side.hidden, -1).detach().numpy() for side in (student, teacher)]
    ends = [side.tokens.byte_ends.tolist() for side in (student, teacher)]
    common = sorted({*ends[0]} & {*ends[1]} - {-1})
    groups, open_group = [], None
    for begin, border in zip([0, *common], common, strict=False):
        chunk, live = [], True
        for side, table, its_ends in zip((student, teacher), tables, ends, strict=True):
            tokens = [i for i, end in enumerate(its_ends) if begin < end <= border]
            live = live and all(bool(side.scored[i]) for i in tokens)
            ids = side.tokens.ids
            own = sum(table[i - 1, ids[i]] for i in tokens if i)
            beyond = [
                index
                for index, content in enumerate(side.vocabulary.token_bytes)
                if content is None or content[:1] in (b" ", b"\n", b"\t")
            ]
            after = math.log(sum(math.exp(table[tokens[-1], index]) for index in beyond))
            chunk.append((own, after))
        if not live:
            open_group = None
            continue
        if open_group is None:
            open_group = [0.0, 0.0, 0.0, 0.0]
            groups.append(open_group)
        (own_s, after_s), (own_t, after_t) = chunk
        open_group[:] = [open_group[0] + own_s, open_group[1] + own_t, after_s, after_t]
        if method.merge_threshold is None or math.exp(after_t) > method.merge_threshold:
            open_group = None
    debias = float(method.debias)
    return sum(abs(s + debias * bs - t - debias * bt) for s, t, bs, bt in groups), len(groups)


@given(
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([None, 0.0, 0.3, 0.5, 0.8, 1.0]),
    debias=st.booleans(),
    scored_bytes=st.lists(st.booleans(), min_size=9, max_size=9),
    everything=st.booleans(),
)
def test_equals_brute_force(setup, seed, threshold, debias, scored_bytes, everything):
    scored = np.array(scored_bytes) | everything
    student, teacher = setup(
        student_scored=scored_tokens(np.array(STUDENT_ENDS), scored),
        teacher_scored=scored_tokens(np.array(TEACHER_ENDS), scored),
        seed=seed,
    )
    method = Alm(divergence="abs", debias=debias, merge_threshold=threshold)
    signal = method.signal(teacher, DOCUMENT)
    term = method.loss(student, signal, PAIR, EMPTY)
    expected, groups = brute_force(method, student, teacher)
    assert term.total.item() == pytest.approx(expected, abs=1e-5)
    assert term.units == groups
    assert method.num_units(student.tokens, student.scored.numpy(), signal, PAIR) == groups


def test_by_hand(predict):
    # One chunk of four bytes: the teacher reads it as two tokens of probability ½ and ½, the
    # student as one of probability ⅛. A border follows with ½ at the teacher, ¼ at the student
    # (id 0 is special). Debiased: teacher ⅛, student 1/32; |ln| differ by ln 4, or ln 2 without.
    words = Vocabulary((None, b"ab", b"abab"), {0: "end"})
    teacher_rows = torch.tensor([[0.25, 0.5, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]).double()
    student_rows = torch.tensor([[0.5, 0.375, 0.125], [0.25, 0.5, 0.25]]).double()
    teacher = predict(teacher_rows.log(), [-1, 2, 4], ids=[0, 1, 1], vocabulary=words)
    student = predict(student_rows.log(), [-1, 4], ids=[0, 2], vocabulary=words)
    for debias, expected in ((True, math.log(4)), (False, math.log(2))):
        method = Alm(divergence="abs", debias=debias)
        signal = method.signal(teacher, DOCUMENT)
        term = method.loss(student, signal, Pair(words, words), EMPTY)
        assert (term.units, term.total.item()) == (1, pytest.approx(expected, abs=1e-6))
    np.testing.assert_allclose(signal.logprob, [np.nan, -math.log(2), -math.log(2)], rtol=1e-6)


@every
def test_gradient(setup, method):
    student, teacher = setup()
    signal = method.signal(teacher, DOCUMENT)

    def total(logits):
        other = setup()[0]
        other.hidden = logits
        return method.loss(other, signal, PAIR, EMPTY).total

    assert torch.autograd.gradcheck(total, student.hidden, fast_mode=True)


@every
def test_row_chunks_change_nothing(setup, method):
    results = []
    for elements in (WHOLE, 1, 2 * len(STUDENT)):
        student, teacher = setup(elements)
        term = total_of(method, student, teacher)
        results.append((term.total, *torch.autograd.grad(term.total, student.hidden)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "method", [method for method in CHOICES if method.divergence != "binary_ce"], ids=repr
)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_zero_when_student_is_teacher(setup, method, seed):
    student, _ = setup(seed=seed)
    signal = method.signal(setup(seed=seed)[0], DOCUMENT)
    term = method.loss(student, signal, Pair(STUDENT, STUDENT), EMPTY)
    (gradient,) = torch.autograd.grad(term.total, student.hidden)
    # the signal is fp32: log-probabilities differ by about 1e-7
    assert term.total.abs() < 1e-5
    if method.divergence not in ("abs", "abs_exp"):  # their gradient is a sign
        assert gradient.abs().max() < 1e-5


@every
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_never_negative(setup, method, seed):
    assert total_of(method, *setup(seed=seed)).total >= 0


def test_default_has_the_published_gradient(setup):
    gradients = []
    for name in ("binary_kl", "binary_ce"):
        student, teacher = setup()
        total = total_of(Alm(divergence=name), student, teacher).total
        gradients += torch.autograd.grad(total, student.hidden)
    torch.testing.assert_close(*gradients)


def test_every_choice_gives_its_own_loss(setup):
    totals = [total_of(method, *setup(seed=5)).total.item() for method in CHOICES]
    assert len({round(total, 12) for total in totals}) == len(CHOICES)


def test_twelve_bytes_a_token(setup):
    _, teacher = setup()
    signal = Alm().signal(teacher, DOCUMENT)
    assert signal.num_bytes == 12 * 7
    assert np.isnan(signal.logprob).tolist() == [True, False, False, False, True, False, False]
    without = Alm(debias=False, merge_threshold=None).signal(teacher, DOCUMENT)
    assert np.isnan(without.border_logprob).all()
    np.testing.assert_array_equal(without.logprob, signal.logprob)


def test_appended_zero_width_tokens_change_nothing(predict, noise):
    def run(extra):
        student = noise(7 + extra, len(STUDENT), seed=1)[: 7 + extra]
        teacher = noise(7 + extra, len(TEACHER), seed=2)[: 7 + extra]
        student[:7], teacher[:7] = noise(7, len(STUDENT), seed=3), noise(7, len(TEACHER), seed=4)
        sides = [
            predict(logits, ends + [-1] * extra, ids=[0] * (7 + extra), vocabulary=vocabulary)
            for logits, ends, vocabulary in (
                (student, STUDENT_ENDS, STUDENT),
                (teacher, TEACHER_ENDS, TEACHER),
            )
        ]
        return total_of(Alm(), *sides)

    plain, padded = run(0), run(3)
    assert plain.units == padded.units > 0
    torch.testing.assert_close(padded.total, plain.total, rtol=0, atol=0)


def test_chunk_cut_by_a_mask_is_dead(setup):
    # the student's token 4 is unscored: its chunk (3 4) dies, although token 3 counts
    scored = np.array([False, True, True, True, False, True, True])
    student, teacher = setup(student_scored=scored)
    method = Alm(merge_threshold=None)
    term = total_of(method, student, teacher)
    assert term.units == 3
    (gradient,) = torch.autograd.grad(term.total, student.hidden)
    # row 2 predicts token 3 and is the border row of token 2; row 3 would predict token 4
    assert gradient[3].abs().max() == 0
    assert gradient[4].abs().max() > 0


def test_groups_do_not_reach_over_a_dead_chunk(setup):
    scored = np.array([False, True, True, True, False, True, True])
    student, teacher = setup(student_scored=scored)
    assert total_of(Alm(merge_threshold=1.0), student, teacher).units == 2


@pytest.mark.parametrize("elements", [WHOLE, 1])
def test_nothing_alive(setup, elements):
    student, teacher = setup(elements, student_scored=[False] * 7, teacher_scored=[False] * 7)
    term = total_of(Alm(), student, teacher)
    assert (term.units, term.total.item()) == (0, 0)
    (gradient,) = torch.autograd.grad(term.total, student.hidden)
    assert gradient.abs().max() == 0


def test_read_only_arrays_serve(setup):
    # Ray delivers signals, tokens and vocabularies as read-only buffers
    student, teacher = setup()
    signal = Alm().signal(teacher, DOCUMENT)
    arrays = [signal.byte_ends, signal.logprob, signal.border_logprob, STUDENT.border_ids]
    for array in [*arrays, TEACHER.border_ids, student.tokens.ids, teacher.tokens.ids]:
        array.flags.writeable = False
    assert Alm().signal(teacher, DOCUMENT).num_bytes == signal.num_bytes
    assert Alm().loss(student, signal, PAIR, EMPTY).units > 0


@pytest.mark.parametrize(
    "options",
    [
        {"divergence": "abs", "temperature": 100.0},
        {"divergence": "renyi", "temperature": 1.0},
        {"divergence": "binary_kl_temp_limit", "temperature": 1.0},
        {"alpha": 2.0},
        {"divergence": "renyi", "alpha": 1.0},
        {"debias": False, "merge_threshold": None, "border": "end"},
        {"merge_threshold": 1.1},
        {"temperature": -1.0},
        {"weighting": "bytes"},
        {"gamma": 0.1},
    ],
    ids=repr,
)
def test_useless_and_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        Alm(**options)


def test_vocabulary_without_borders_is_refused():
    bare = Vocabulary((b"a", b"b"))
    with pytest.raises(ValueError, match="the teacher's vocabulary has no token"):
        Alm().check(Pair(STUDENT, bare))
    with pytest.raises(ValueError, match='the student\'s vocabulary has no token for border "end"'):
        Alm(border="end").check(Pair(Vocabulary((b" a",)), STUDENT))
    Alm(debias=False, merge_threshold=None).check(Pair(bare, bare))


def test_signal_of_another_document_is_refused(setup):
    student, teacher = setup()
    signal = Alm().signal(teacher, DOCUMENT)
    longer = replace(signal, byte_ends=np.where(signal.byte_ends < 0, -1, signal.byte_ends + 1))
    with pytest.raises(ValueError, match="end at byte 10, the student's at byte 9"):
        Alm().loss(student, longer, PAIR, EMPTY)
