"""Units, signals and options of p_kl, h_kl, gold and uld; what they refuse."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld
from losses.signals import TokenLikelihoods

EXACT = "float32"


def test_units_are_known_before_the_forward(toy, method):
    teacher, student = toy.sides(11)
    signal = method.signal(teacher, toy.document)
    term = method.loss(student, signal, toy.pair, toy.empty)
    expected = 8 if getattr(method, "merge", "") == "positions" else 6
    assert term.units == expected
    assert method.num_units(student.tokens, student.scored.numpy(), signal, toy.pair) == expected
    assert method.unit == "chunks"


def test_nothing_scored(toy, method):
    teacher, student = toy.sides()
    teacher = toy.side(teacher.hidden, toy.teacher_ends, scored=[False] * len(toy.teacher_ends))
    student = toy.side(student.hidden, toy.student_ends, scored=[False] * len(toy.student_ends))
    term = method.loss(student, method.signal(teacher, toy.document), toy.pair, toy.empty)
    assert (term.units, term.total.item()) == (0, 0)


def test_chunks_with_an_unscored_token_do_not_count(toy, method):
    if getattr(method, "merge", "") == "positions":
        return
    teacher, student = toy.sides(13)
    marks = np.array(toy.student_ends) > 0
    marks[3] = False  # half of the chunk that ends at byte 7
    fewer = toy.side(student.hidden, toy.student_ends, ids=student.tokens.ids, scored=marks)
    term = method.loss(fewer, method.signal(teacher, toy.document), toy.pair, toy.empty)
    assert term.units == 5


def test_every_option_changes_the_result(toy):
    teacher, student = toy.sides(17)
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
        totals = {round(toy.total(method, teacher, student).item(), 9) for method in methods}
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


def test_other_signals_documents_and_missing_w_are_refused(toy, method):
    teacher, student = toy.sides()
    nothing = np.zeros(0, dtype=np.float32)
    wrong = TokenLikelihoods(nothing.astype(np.int32), nothing, nothing)
    with pytest.raises(ValueError, match="reads Top"):
        method.loss(student, wrong, toy.pair, toy.empty)
    shorter = toy.side(teacher.hidden[:4], toy.teacher_ends[:4])
    if getattr(method, "merge", "") != "positions":
        with pytest.raises(ValueError, match="end at byte 3, the student's at byte 14"):
            method.loss(student, method.signal(shorter, toy.document), toy.pair, toy.empty)
    if not isinstance(method, Uld):
        with pytest.raises(ValueError, match=r"pass Pair\.projection"):
            toy.total(method, teacher, student, Pair(toy.pair.student, toy.pair.teacher))


def test_w_of_another_vocabulary_is_refused(toy, chain):
    if isinstance(chain, Uld):
        return
    teacher, student = toy.sides()
    smaller = toy.sparse([[(index, 1.0)] for index in range(4)], toy.num_teacher)
    with pytest.raises(ValueError, match="W has 4 rows, the student predicts 9"):
        toy.total(
            chain, teacher, student, Pair(toy.pair.student, toy.pair.teacher, projection=smaller)
        )


def test_gold_refuses_vocabularies_without_a_common_token(toy):
    """Tokens without bytes are no common ones, even where their roles are equal."""
    ours = Vocabulary((None, b"a", b"", b"bc"), {0: "end"})
    theirs = Vocabulary((b"", b"A", None, b"c"), {2: "end"})
    with pytest.raises(ValueError, match=r"gold: .* share no token.*alm, p_kl or uld"):
        Gold().check(Pair(ours, theirs))
    Gold().check(Pair(ours, Vocabulary((*theirs.token_bytes, b"bc"))))
    teacher, student = toy.sides()
    split = toy.sparse([[(1, 0.9), (2, 0.1)]] * 9, toy.num_teacher)
    with pytest.raises(ValueError, match="share no token"):
        toy.total(Gold(), teacher, student, Pair(ours, theirs, projection=split))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_signals_hold_what_they_promise(toy, precision):
    teacher, _ = toy.sides(dtype=torch.float32)
    width = 4 if precision == "float32" else 2
    rows, tokens = 8, len(toy.teacher_ends)
    tops = PKl(k=3, precision=precision).signal(teacher, toy.document)
    assert tops.num_bytes == 8 * tokens + rows * (8 + 3 * (4 + width))
    sorted_only = Uld(k=3, precision=precision).signal(teacher, toy.document)
    assert sorted_only.num_bytes == 8 * tokens + rows * (4 + 3 * width)


def test_listed_tokens_by_hand(
    toy,
):
    probs = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.3, 0.2]], dtype=torch.float64)
    teacher = toy.side(probs.log(), [-1, 2], ids=np.array([0, 3]))
    signal = PKl(k=2, precision=EXACT).signal(teacher, toy.document)
    assert signal.realised.tolist() == [3]
    assert dict(zip(signal.ids[0].tolist(), np.exp(signal.others[0]), strict=True)) == (
        pytest.approx({0: 0.4, 1: 0.3})
    )
    assert np.exp(signal.tail).tolist() == pytest.approx([0.2])
    assert np.exp(signal.logprob[1]) == pytest.approx(0.1)
