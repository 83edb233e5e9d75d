"""What p_kl, h_kl, gold and uld have in common: properties, oracles, options, units."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction
from losses.signals import TokenLikelihoods

DOCUMENT, EMPTY = text_document("d", "not read"), nn.ModuleDict()
NUM_STUDENT, NUM_TEACHER = 9, 11
STUDENT_ENDS = [-1, 2, 3, 6, 7, 9, 10, 12, 14]
TEACHER_ENDS = [-1, 1, 2, 3, 7, 8, 9, 10, 14]  # borders 2, 3, 7, 9, 10, 14
EXACT = "float32"
CHAINS = [
    PKl(precision=EXACT),
    PKl(k=3, precision=EXACT),
    PKl(k=3, divergence="reverse", precision=EXACT),
    PKl(k=3, temperature=2.0, precision=EXACT),
    HKl(precision=EXACT),
    HKl(k=3, precision=EXACT),
    HKl(k=3, common="strict", precision=EXACT),
    HKl(k=3, divergence="reverse", precision=EXACT),
    Gold(precision=EXACT),
    Gold(k=3, precision=EXACT),
    Gold(k=3, beta=0.0, precision=EXACT),
    Gold(k=3, beta=1.0, precision=EXACT),
    Uld(precision=EXACT),
    Uld(k=3, precision=EXACT),
    Uld(k=3, merge="positions", precision=EXACT),
]
PUBLISHED = [
    PKl(k=3, chunk="mean", precision=EXACT),
    PKl(chunk="mean", divergence="reverse", precision=EXACT),
    HKl(k=3, chunk="mean", precision=EXACT),
    HKl(chunk="mean", common="relaxed", uncommon_k=2, precision=EXACT),
    Gold(k=3, merge="bayesian", precision=EXACT),
    Gold(k=3, merge="observed", beta=0.0, precision=EXACT),
    Uld(k=3, merge="bayesian", precision=EXACT),
    Uld(k=3, merge="observed", precision=EXACT),
]
chains = pytest.mark.parametrize("method", CHAINS, ids=repr)
every = pytest.mark.parametrize("method", CHAINS + PUBLISHED, ids=repr)


def sparse(rows, num_teacher):
    entries = [(t, w) for row in rows for t, w in row]
    return Projection(
        offsets=np.cumsum([0, *(len(row) for row in rows)]),
        teacher_ids=np.array([t for t, _ in entries], dtype=np.int64),
        weights=np.array([w for _, w in entries], dtype=np.float32),
        num_teacher=num_teacher,
        exact=np.array([len(row) == 1 for row in rows]),
    )


# exact pairs, split rows, a row that starts like another one, an empty row; ids 9 and 10 unreached
W = sparse(
    [
        [(0, 1.0)],
        [(2, 1.0)],
        [(3, 1.0)],
        [(4, 0.9), (5, 0.1)],
        [(4, 0.9), (3, 0.1)],
        [(6, 1.0)],
        [(7, 0.5), (8, 0.4), (2, 0.1)],
        [],
        [(1, 1.0)],
    ],
    NUM_TEACHER,
)


def names(size):
    return Vocabulary((None, *(b"t%d" % index for index in range(1, size))), {0: "end"})


PAIR = Pair(names(NUM_STUDENT), names(NUM_TEACHER), projection=W)


def side(logits, ends, seed=0, elements=ELEMENTS_IN_MEMORY, ids=None, scored=None):
    count, size = logits.shape
    if ids is None:
        ids = np.random.default_rng(seed).integers(0, size, count)
    marks = np.asarray(ends) > 0 if scored is None else np.asarray(scored)
    return Prediction(
        tokens=Tokens(ids, np.asarray(ends)),
        hidden=logits,
        head=Head(nn.Identity(), size),
        vocabulary=names(size),
        scored=torch.from_numpy(marks & (np.arange(count) > 0)),
        elements_in_memory=elements,
    )


def setup(noise, seed=0, dtype=torch.float64, elements=ELEMENTS_IN_MEMORY, scale=2.0):
    teacher = noise(len(TEACHER_ENDS), NUM_TEACHER, seed=seed, scale=scale).to(dtype)
    student = noise(len(STUDENT_ENDS), NUM_STUDENT, seed=seed + 1, scale=scale).to(dtype)
    student = student.requires_grad_()
    return (
        side(teacher, TEACHER_ENDS, seed + 2, elements),
        side(student, STUDENT_ENDS, seed + 3, elements),
    )


def total(method, teacher, student, pair=PAIR):
    return method.loss(student, method.signal(teacher, DOCUMENT), pair, method.modules(pair)).total


@chains
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 2.0, 30.0]))
def test_never_negative(noise, method, seed, scale):
    teacher, student = setup(noise, seed, scale=scale)
    value = total(method, teacher, student)
    assert value.item() >= -1e-6
    assert value.isfinite()
    value.backward()
    assert student.hidden.grad.isfinite().all()


@every
def test_finite_where_models_are_certain(noise, method):
    teacher, student = setup(noise, scale=500.0, dtype=torch.float32)
    value = total(method, teacher, student)
    value.backward()
    assert value.isfinite()
    assert student.hidden.grad.isfinite().all()


@chains
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_zero_with_zero_gradient_at_identity(noise, method, seed):
    teacher, _ = setup(noise, seed)
    logits = teacher.hidden.clone().requires_grad_()
    student = side(logits, TEACHER_ENDS, ids=teacher.tokens.ids)
    identity = sparse([[(index, 1.0)] for index in range(NUM_TEACHER)], NUM_TEACHER)
    pair = Pair(names(NUM_TEACHER), names(NUM_TEACHER), projection=identity)
    if isinstance(method, PKl | HKl) and method.temperature != 1:
        return
    value = total(method, teacher, student, pair)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    # |x| has no derivative at zero, so the sorted parts may keep one of order one
    if isinstance(method, PKl | HKl):
        assert logits.grad.abs().max().item() < 1e-5


@every
def test_gradients_against_finite_differences(noise, method):
    teacher, student = setup(noise, 3)
    signal = method.signal(teacher, DOCUMENT)

    def loss(logits):
        own = side(logits, STUDENT_ENDS, ids=student.tokens.ids)
        return method.loss(own, signal, PAIR, EMPTY).total

    logits = student.hidden.detach().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits,), atol=1e-6, fast_mode=True)


@every
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_row_chunks_give_the_whole_tables_loss(noise, method, dtype, limit):
    results = []
    for elements in (ELEMENTS_IN_MEMORY, 2 * NUM_TEACHER):
        _, student = setup(noise, 5, dtype, elements)
        teacher, _ = setup(noise, 5, dtype)
        value = total(method, teacher, student)
        value.backward()
        results.append((value.detach(), student.hidden.grad))
    torch.testing.assert_close(results[0], results[1], rtol=limit, atol=limit)


@chains
@settings(max_examples=8)
@given(seed=st.integers(0, 1_000))
def test_unchanged_by_renumbering_both_vocabularies(noise, method, seed):
    teacher, student = setup(noise, seed)
    random = np.random.default_rng(seed)
    of_student, of_teacher = random.permutation(NUM_STUDENT), random.permutation(NUM_TEACHER)
    new_student, new_teacher = np.argsort(of_student), np.argsort(of_teacher)
    rows = [
        [
            (int(new_teacher[t]), float(w))
            for t, w in zip(
                W.teacher_ids[W.offsets[s] : W.offsets[s + 1]],
                W.weights[W.offsets[s] : W.offsets[s + 1]],
                strict=True,
            )
        ]
        for s in of_student
    ]
    moved = Pair(PAIR.student, PAIR.teacher, projection=sparse(rows, NUM_TEACHER))
    if getattr(method, "common", "strict") != "strict":  # ties go to the lowest id
        return
    other = total(
        method,
        side(teacher.hidden[:, of_teacher], TEACHER_ENDS, ids=new_teacher[teacher.tokens.ids]),
        side(student.hidden[:, of_student], STUDENT_ENDS, ids=new_student[student.tokens.ids]),
        moved,
    )
    assert other.item() == pytest.approx(total(method, teacher, student).item(), abs=1e-6)


@every
def test_padding_tokens_change_nothing(noise, method):
    teacher, student = setup(noise, 7)
    wider = [
        side(
            torch.cat([x.hidden, noise(2, x.hidden.shape[1], seed=9)]),
            [*ends, -1, -1],
            ids=np.append(x.tokens.ids, [0, 0]),
        )
        for x, ends in ((teacher, TEACHER_ENDS), (student, STUDENT_ENDS))
    ]
    assert total(method, *wider).item() == pytest.approx(
        total(method, teacher, student).item(), abs=1e-6
    )


@every
def test_units_are_known_before_the_forward(noise, method):
    teacher, student = setup(noise, 11)
    signal = method.signal(teacher, DOCUMENT)
    term = method.loss(student, signal, PAIR, EMPTY)
    expected = 8 if getattr(method, "merge", "") == "positions" else 6
    assert term.units == expected
    assert method.num_units(student.tokens, student.scored.numpy(), signal, PAIR) == expected
    assert method.unit == "chunks"


@every
def test_nothing_scored(noise, method):
    teacher, student = setup(noise)
    teacher = side(teacher.hidden, TEACHER_ENDS, scored=[False] * len(TEACHER_ENDS))
    student = side(student.hidden, STUDENT_ENDS, scored=[False] * len(STUDENT_ENDS))
    term = method.loss(student, method.signal(teacher, DOCUMENT), PAIR, EMPTY)
    assert (term.units, term.total.item()) == (0, 0)


@every
def test_chunks_with_an_unscored_token_do_not_count(noise, method):
    if getattr(method, "merge", "") == "positions":
        return
    teacher, student = setup(noise, 13)
    marks = np.array(STUDENT_ENDS) > 0
    marks[3] = False  # half of the chunk that ends at byte 7
    fewer = side(student.hidden, STUDENT_ENDS, ids=student.tokens.ids, scored=marks)
    term = method.loss(fewer, method.signal(teacher, DOCUMENT), PAIR, EMPTY)
    assert term.units == 5


def test_every_option_changes_the_result(noise):
    teacher, student = setup(noise, 17)
    families = [
        [
            PKl(),
            PKl(k=3),
            PKl(precision=EXACT),
            PKl(precision="bfloat16"),
            PKl(chunk="mean"),
            PKl(divergence="reverse"),
            PKl(temperature=2.0),
            PKl(temperature=2.0, times_temperature_squared=True),
        ],
        [
            HKl(k=3),
            HKl(k=5),
            HKl(k=3, precision=EXACT),
            HKl(chunk="mean"),
            HKl(chunk="mean", uncommon_k=1),
            HKl(k=3, common="relaxed"),
            HKl(k=3, common="strict"),
            HKl(k=3, divergence="reverse"),
            HKl(k=3, temperature=2.0),
            HKl(k=3, temperature=2.0, times_temperature_squared=True),
        ],
        [
            Gold(),
            Gold(k=3),
            Gold(precision=EXACT),
            Gold(merge="bayesian"),
            Gold(merge="observed"),
            Gold(beta=0.2),
            Gold(matched_weight=0.5, unmatched_weight=0.6),
            Gold(matched_weight=0.5, unmatched_weight=0.7),
            Gold(matched_weight=0.6, unmatched_weight=0.6),
            Gold(student_temperature=2.0),
            Gold(teacher_temperature=2.0),
        ],
        [
            Uld(),
            Uld(k=2),
            Uld(precision=EXACT),
            Uld(merge="bayesian"),
            Uld(merge="observed"),
            Uld(merge="positions"),
            Uld(student_temperature=2.0),
            Uld(teacher_temperature=2.0),
        ],
    ]
    for methods in families:
        totals = {round(total(method, teacher, student).item(), 9) for method in methods}
        assert len(totals) == len(methods), methods[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PKl, {"times_temperature_squared": True}),
        (PKl, {"w_learning_rate": 0.1}),
        (PKl, {"k": 0}),
        (PKl, {"chunk": "chains"}),
        (HKl, {"times_temperature_squared": True}),
        (HKl, {"uncommon_k": 5}),
        (HKl, {"common": "all"}),
        (Gold, {"matched_weight": 0.5}),
        (Gold, {"beta": 1.5}),
        (Uld, {"merge": "chains"}),
        (Uld, {"unknown": 1}),
    ],
    ids=repr,
)
def test_useless_and_wrong_options_are_refused(kind, options):
    with pytest.raises(ValidationError):
        kind(**options)


@every
def test_other_signals_documents_and_missing_w_are_refused(noise, method):
    teacher, student = setup(noise)
    nothing = np.zeros(0, dtype=np.float32)
    wrong = TokenLikelihoods(nothing.astype(np.int32), nothing, nothing)
    with pytest.raises(ValueError, match="reads Top"):
        method.loss(student, wrong, PAIR, EMPTY)
    shorter = side(teacher.hidden[:4], TEACHER_ENDS[:4])
    if getattr(method, "merge", "") != "positions":
        with pytest.raises(ValueError, match="end at byte 3, the student's at byte 14"):
            method.loss(student, method.signal(shorter, DOCUMENT), PAIR, EMPTY)
    if not isinstance(method, Uld):
        with pytest.raises(ValueError, match=r"pass Pair\.projection"):
            total(method, teacher, student, Pair(PAIR.student, PAIR.teacher))


@chains
def test_w_of_another_vocabulary_is_refused(noise, method):
    if isinstance(method, Uld):
        return
    teacher, student = setup(noise)
    smaller = sparse([[(index, 1.0)] for index in range(4)], NUM_TEACHER)
    with pytest.raises(ValueError, match="W has 4 rows, the student predicts 9"):
        total(method, teacher, student, Pair(PAIR.student, PAIR.teacher, projection=smaller))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_signals_hold_what_they_promise(noise, precision):
    teacher, _ = setup(noise, dtype=torch.float32)
    width = 4 if precision == "float32" else 2
    rows, tokens = 8, len(TEACHER_ENDS)
    tops = PKl(k=3, precision=precision).signal(teacher, DOCUMENT)
    assert tops.num_bytes == 8 * tokens + rows * (8 + 3 * (4 + width))
    sorted_only = Uld(k=3, precision=precision).signal(teacher, DOCUMENT)
    assert sorted_only.num_bytes == 8 * tokens + rows * (4 + 3 * width)


def test_listed_tokens_by_hand():
    probs = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.3, 0.2]], dtype=torch.float64)
    teacher = side(probs.log(), [-1, 2], ids=np.array([0, 3]))
    signal = PKl(k=2, precision=EXACT).signal(teacher, DOCUMENT)
    assert signal.realised.tolist() == [3]
    assert dict(zip(signal.ids[0].tolist(), np.exp(signal.others[0]), strict=True)) == (
        pytest.approx({0: 0.4, 1: 0.3})
    )
    assert np.exp(signal.tail).tolist() == pytest.approx([0.2])
    assert np.exp(signal.logprob[1]) == pytest.approx(0.1)


def oracle_cells(teacher, student, method):
    """P-KL's cells by brute force over all tokens, one chunk after the other, k = all."""
    p, q = (x.hidden.detach().log_softmax(-1).exp() for x in (teacher, student))
    borders = [0, 2, 3, 7, 9, 10, 14]
    for begin, end in itertools.pairwise(borders):
        theirs, ours = (
            [i for i, e in enumerate(ends) if begin < e <= end]
            for ends in (TEACHER_ENDS, STUDENT_ENDS)
        )
        joint = [
            np.prod([table[i - 1, side.tokens.ids[i]].item() for i in tokens])
            for table, side, tokens in ((p, teacher, theirs), (q, student, ours))
        ]
        first_t, first_s = teacher.tokens.ids[theirs[0]], student.tokens.ids[ours[0]]
        row_t, row_s = p[theirs[0] - 1].clone(), q[ours[0] - 1].clone()
        chunk = (0.0, 0.0)
        if len(theirs) > 1 or len(ours) > 1:
            row_t[first_t] -= joint[0]
            row_s[first_s] -= joint[1]
            chunk = joint
        cells = [[row_t[t].item(), 0.0] for t in range(NUM_TEACHER)]
        lost = 0.0
        for s in range(NUM_STUDENT):
            entries = slice(W.offsets[s], W.offsets[s + 1])
            weights = W.weights[entries].astype(np.float64)
            for t, w in zip(W.teacher_ids[entries], weights / weights.sum(), strict=True):
                cells[t][1] += row_s[s].item() * w
            lost += row_s[s].item() if not len(weights) else 0.0
        if len(theirs) == 1:
            cells[first_t][0] += chunk[0]
            cells[first_t][1] += chunk[1]
        else:
            cells.append(list(chunk))
        unreached = [c for c in cells if c[1] <= 1e-15]
        cells = [c for c in cells if c[1] > 1e-15]
        cells.append([sum(c[0] for c in unreached), lost])
        cells = [c for c in cells if c[1] > 0]  # the teacher on what the student can reach
        whole = sum(c[0] for c in cells)
        yield [(c[0] / whole, c[1]) for c in cells]


@pytest.mark.parametrize("seed", range(5))
def test_p_kl_by_brute_force(noise, seed):
    teacher, student = setup(noise, 100 + seed)
    expected = sum(
        t * np.log(t / s)
        for cells in oracle_cells(teacher, student, PKl())
        for t, s in cells
        if t > 1e-15
    )
    value = total(PKl(precision=EXACT), teacher, student)
    assert value.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", [PKl, Gold, Uld])
def test_fewer_listed_tokens_never_see_more(noise, kind):
    """A coarser cut of the same distributions cannot tell them better apart."""
    options = {"beta": 0.0, "matched_weight": 1.0, "unmatched_weight": 0.0} if kind is Gold else {}
    teacher, student = setup(noise, 23)
    values = [
        total(kind(k=k, precision=EXACT, **options), teacher, student).item() for k in range(1, 11)
    ]
    assert values[0] < values[-1]
    assert max(values) <= values[-1] + 1e-6
