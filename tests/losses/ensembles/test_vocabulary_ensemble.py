"""Ensembles in the student's vocabulary against plain loops over tokens, through W⁻."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from losses.alignment.projection import Projection, ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.ensembles import EnsemblePair, Said
from losses.ensembles.student_vocabulary import VocabularyEnsemble
from losses.methods.kl import Kl
from losses.prediction import ELEMENTS_IN_MEMORY, Head

DOCUMENT, EMPTY = text_document("d", "abcab"), nn.ModuleDict()
STUDENT = Vocabulary((None, b"a", b"b", b"ab", b"c"), {0: "end"})
FINE = Vocabulary((None, b"b", b"a", b"c", b"d"), {0: "end"})
"""Knows no ``ab``; its ``d`` means nothing to the student."""
COARSE = Vocabulary((b"ca", b"ab", b"b", b"a", b"c", None), {5: "end"})
VOCABULARIES = {"same": STUDENT, "fine": FINE, "coarse": COARSE}
READS = {  # ids and ends of "abcab" after a start token
    "student": ([0, 3, 4, 1, 2], [-1, 2, 3, 4, 5]),
    "same": ([0, 3, 4, 1, 2], [-1, 2, 3, 4, 5]),
    "fine": ([0, 2, 1, 3, 2, 1], [-1, 1, 2, 3, 4, 5]),
    "coarse": ([5, 1, 0, 2], [-1, 2, 4, 5]),
}
both = pytest.mark.parametrize("mean", ["arithmetic", "geometric"])


def encode(vocabulary: Vocabulary):
    """Longest match first."""

    def cut(text: str) -> list[int]:
        ids, rest = [], text.encode()
        while rest:
            fits = [b for b in vocabulary.token_bytes if b and rest.startswith(b)]
            if not fits:
                return []
            ids.append(vocabulary.ids_of(max(fits, key=len))[0])
            rest = rest[len(max(fits, key=len)) :]
        return ids

    return lambda texts: [cut(text) for text in texts]


def back(name: str) -> Projection | None:
    """W⁻ of a teacher."""
    if name == "same":
        return None
    own = VOCABULARIES[name]
    return build_projection(own, STUDENT, encode(STUDENT), ProjectionOptions(), encode(own))


@pytest.fixture
def setup(predict, noise):
    """The student, an ensemble pair and what each teacher says."""

    def make(*names, weights=None, seed=0, elements=ELEMENTS_IN_MEMORY, seeds=None, scored=None):
        ids, ends = READS["student"]
        logits = noise(len(ids), len(STUDENT), seed=seed, scale=1.0).requires_grad_()
        student = predict(
            logits, ends, ids=ids, vocabulary=STUDENT, elements=elements, scored=scored
        )
        said, pairs, tables = [], [], []
        for place, name in enumerate(names):
            ids, ends = READS[name]
            own = noise(len(ids), len(VOCABULARIES[name]), seed=(seeds or range(9))[place] + 50)
            teacher = predict(own, ends, ids=ids, vocabulary=VOCABULARIES[name])
            signal = Kl().signal(teacher, DOCUMENT)
            said.append(Said(place, (weights or [1.0] * 9)[place], signal))
            head = Head(nn.Identity(), len(VOCABULARIES[name]))
            pairs.append(Pair(STUDENT, VOCABULARIES[name], head, back(name)))
            tables.append(own)
        return student, EnsemblePair(STUDENT, STUDENT, members=tuple(pairs)), said, tables

    return make


def loss(student, pair, said, mean, method=None):
    ensemble = VocabularyEnsemble(method or Kl(), mean)
    scored = student.scored.numpy()
    signal = ensemble.combined(student.tokens, scored, said, STUDENT)
    term = ensemble.method.loss(student, signal, pair, EMPTY)
    assert term.units == ensemble.method.num_units(student.tokens, scored, signal, pair)
    return term


def chunks_of(name: str) -> list[tuple[list[int], list[int]]]:
    """The tokens of both sides of each common chunk, found by set arithmetic."""
    sides = [READS["student"][1], READS[name][1]]
    borders = sorted(set(sides[0]) & set(sides[1]) - {-1})
    spans = list(zip([0, *borders[:-1]], borders, strict=True))
    return [
        tuple([i for i, end in enumerate(side) if low < end <= high] for side in sides)
        for low, high in spans
    ]


def targets_by_loops(name, table, temperature=1.0) -> dict[int, list[float]]:
    """The teacher's probabilities of student tokens, by the student token it speaks of."""
    probs = torch.softmax(table / temperature, dim=-1).tolist()
    ids, w = READS[name][0], back(name)
    found = {}
    for ours, theirs in chunks_of(name):
        row = probs[theirs[0] - 1]
        joint = math.prod(probs[t - 1][ids[t]] for t in theirs)
        if w is None:
            found[ours[0]] = row
            continue
        spread = [0.0] * len(STUDENT)
        for token, p in enumerate(row):
            left = p - joint if token == ids[theirs[0]] else p
            for target, weight in w.row(token).items():
                spread[target] += left * weight
        spread[READS["student"][0][ours[0]]] += joint
        found[ours[0]] = [x / sum(spread) for x in spread]
    return found


def mixed_by_loops(names, tables, weights, mean, temperature=1.0) -> dict[int, list[float]]:
    each = [targets_by_loops(n, t, temperature) for n, t in zip(names, tables, strict=True)]
    mixed = {}
    for place in sorted(set().union(*each)):
        here = [(w, one[place]) for w, one in zip(weights, each, strict=True) if place in one]
        total = sum(w for w, _ in here)
        columns = range(len(STUDENT))
        if mean == "arithmetic":
            mixed[place] = [sum(w * p[c] for w, p in here) / total for c in columns]
        else:
            product = [math.prod(p[c] ** (w / total) for w, p in here) for c in columns]
            mixed[place] = [x / sum(product) for x in product]
    return mixed


def kl_by_loops(mixed, logits, temperature=1.0) -> float:
    rows = torch.log_softmax(logits.detach() / temperature, dim=-1).tolist()
    return sum(
        p * (math.log(p) - rows[place - 1][c])
        for place, row in mixed.items()
        for c, p in enumerate(row)
        if p > 0
    )


CASES = [("fine",), ("coarse",), ("same", "fine"), ("coarse", "fine"), ("same", "coarse", "fine")]


@both
@pytest.mark.parametrize("names", CASES, ids="+".join)
@settings(max_examples=6)
@given(seed=st.integers(0, 999), temperature=st.sampled_from([1.0, 2.0]))
def test_against_loops(setup, names, mean, seed, temperature):
    weights = [1.0, 0.5, 2.0][: len(names)]
    student, pair, said, tables = setup(*names, weights=weights, seed=seed)
    term = loss(student, pair, said, mean, Kl(temperature=temperature))
    mixed = mixed_by_loops(names, tables, weights, mean, temperature)
    assert term.units == len(mixed)
    expected = kl_by_loops(mixed, student.hidden, temperature)
    assert term.total.item() == pytest.approx(expected, rel=1e-6)


def test_a_token_that_the_teacher_writes_in_pieces(setup):
    """``ab`` gets the product of the teacher's ``a`` and ``b``, and ``a`` keeps nothing of it."""
    _, _, _, (table,) = setup("fine")
    first, second = torch.softmax(table, -1)[0].tolist(), torch.softmax(table, -1)[1].tolist()
    found = targets_by_loops("fine", table)[1]
    known = 1 - first[4]  # ``d`` is cut into nothing
    assert found[3] == pytest.approx(first[2] * second[1] / known)
    assert found[1] == pytest.approx(first[2] * (1 - second[1]) / known)


def test_inside_a_coarse_token_the_teacher_is_silent(setup):
    """``coarse`` reads ``ca`` as one, so it says nothing where the student predicts the ``a``."""
    student, pair, said, _ = setup("coarse")
    assert loss(student, pair, said, "arithmetic").units == 3
    student, pair, said, _ = setup("coarse", "fine")
    assert loss(student, pair, said, "arithmetic").units == 4


@both
def test_teachers_of_the_students_tokens_are_the_identity(setup, mean):
    student, pair, said, _ = setup("same", "same", seeds=[3, 3])
    alone = Kl().loss(student, said[0].signal, pair.members[0], EMPTY)
    found = loss(student, pair, said, mean)
    assert found.units == alone.units
    assert found.total.item() == pytest.approx(alone.total.item(), rel=1e-9)


@both
def test_equal_teachers_are_one(setup, mean):
    student, pair, said, _ = setup("fine", "fine", seeds=[3, 3], weights=[1.0, 2.0])
    one = loss(student, pair, said[:1], mean)
    assert loss(student, pair, said, mean).total.item() == pytest.approx(one.total.item(), rel=1e-9)


@both
def test_order_does_not_matter(setup, mean):
    student, pair, said, _ = setup("same", "coarse", "fine", weights=[1.0, 0.5, 2.0])
    one = loss(student, pair, said, mean).total.item()
    assert loss(student, pair, said[::-1], mean).total.item() == pytest.approx(one, rel=1e-9)


@both
def test_all_the_weight_on_one(setup, mean):
    student, pair, said, _ = setup("same", "same", weights=[1.0, 1e-12])
    alone = loss(student, pair, said[:1], mean)
    assert loss(student, pair, said, mean).total.item() == pytest.approx(alone.total.item())


def test_the_means_differ(setup):
    student, pair, said, _ = setup("same", "fine")
    totals = [loss(student, pair, said, m).total.item() for m in ("arithmetic", "geometric")]
    assert abs(totals[0] - totals[1]) > 1e-3


@both
def test_row_chunks_do_not_show(setup, mean):
    whole = loss(*setup("same", "coarse", "fine")[:3], mean).total
    cut = loss(*setup("same", "coarse", "fine", elements=2 * len(STUDENT))[:3], mean).total
    assert cut.item() == pytest.approx(whole.item(), rel=1e-9)


@both
def test_gradient(setup, mean):
    student, pair, said, _ = setup("same", "fine")
    signal = VocabularyEnsemble(Kl(), mean).combined(
        student.tokens, student.scored.numpy(), said, STUDENT
    )

    def total(logits):
        moved, *_ = setup("same", "fine")
        moved.hidden = logits
        return VocabularyEnsemble(Kl(), mean).method.loss(moved, signal, pair, EMPTY).total

    assert torch.autograd.gradcheck(total, student.hidden)


@pytest.mark.parametrize(
    "method",
    [
        Kl(divergence="js"),
        Kl(divergence="tvd"),
        Kl(divergence="skewed_reverse"),
        Kl(temperature=2.0, times_temperature_squared=True),
    ],
    ids=repr,
)
def test_options_of_kl_count(setup, method):
    student, pair, said, _ = setup("same", "fine")
    total = loss(student, pair, said, "arithmetic", method).total
    assert torch.isfinite(total)
    plain = loss(student, pair, said, "arithmetic", Kl(temperature=method.temperature)).total
    assert abs((total - plain).item()) > 1e-3


def test_unscored_tokens_are_left_out(setup):
    scored = [False, True, False, True, True]
    student, pair, said, _ = setup("same", "fine", scored=scored)
    assert loss(student, pair, said, "arithmetic").units == 3


def test_the_students_own_signal_is_zero(setup):
    """What the identity gate asks."""
    student, pair, _, _ = setup("same")
    method = VocabularyEnsemble(Kl(), "arithmetic").method
    own = EnsemblePair(STUDENT, STUDENT, student.head, members=pair.members)
    found = method.loss(student, method.signal(student, DOCUMENT), own, EMPTY)
    assert abs(found.total.item()) < 1e-9


class TestRefused:
    @pytest.mark.parametrize(
        "method",
        [
            Kl(divergence="reverse"),
            Kl(divergence="adaptive"),
            Kl(divergence="js", beta=1.0),
            Kl(divergence="skewed_reverse", skew=0.0),
        ],
        ids=repr,
    )
    def test_what_would_be_infinite(self, method):
        ensemble = VocabularyEnsemble(method, "arithmetic")
        ensemble.check(Pair(STUDENT, STUDENT))
        with pytest.raises(ValueError, match="would be infinite"):
            ensemble.check(Pair(STUDENT, FINE))

    def test_missing_or_wrong_w(self, setup):
        student, pair, said, _ = setup("fine")
        (member,) = pair.members
        without = Pair(STUDENT, FINE, member.teacher_head)
        with pytest.raises(ValueError, match="pass its W⁻"):
            loss(student, EnsemblePair(STUDENT, STUDENT, members=(without,)), said, "arithmetic")
        w = build_projection(STUDENT, COARSE, encode(COARSE), ProjectionOptions())
        turned = Pair(STUDENT, COARSE, Head(nn.Identity(), len(COARSE)), w)
        with pytest.raises(ValueError, match="W⁻ is 5 x 6; expected the teacher's 6 ids"):
            loss(student, EnsemblePair(STUDENT, STUDENT, members=(turned,)), said, "arithmetic")

    def test_missing_head(self, setup):
        student, _, said, _ = setup("same")
        pair = EnsemblePair(STUDENT, STUDENT, members=(Pair(STUDENT, STUDENT),))
        with pytest.raises(ValueError, match=r"pass each member's Pair\.teacher_head"):
            loss(student, pair, said, "arithmetic")

    def test_a_plain_pair(self, setup):
        student, _, said, _ = setup("same")
        with pytest.raises(ValueError, match="pass an EnsemblePair"):
            loss(student, Pair(STUDENT, STUDENT), said, "arithmetic")

    def test_another_document(self, setup):
        student, pair, said, _ = setup("same")
        signal = said[0].signal
        cut = type(signal)(
            np.minimum(signal.byte_ends, 4), signal.positions, signal.hidden, signal.ids
        )
        with pytest.raises(ValueError, match="end at byte 4, the student's at byte 5"):
            loss(student, pair, [Said(0, 1.0, cut)], "arithmetic")
