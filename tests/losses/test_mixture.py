"""Weights over terms: values by hand, the published GradMag, and what each scheme promises."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from losses.mixture import (
    SCHEMES,
    Absent,
    Confidence,
    Constant,
    Dynamic,
    GradMag,
    Schedule,
    Select,
    TeacherCe,
    TeacherEntropy,
    TeacherScore,
)
from losses.mixture.observing import moving_average
from losses.mixture.shares import hard_shares, soft_shares

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "multitask.json").read_text())
A, B = TeacherScore(6.0, 12, 4), TeacherScore(4.0, 10, 2)
"""Half a nat per byte and 1.5 per token; 0.4 per byte and 2 per token."""
SHARING = [
    Confidence(),
    TeacherCe(),
    TeacherCe(per="byte"),
    TeacherEntropy(),
    Select(),
    Select(per="token"),
]

weights = st.lists(st.floats(0.01, 100), min_size=2, max_size=5)
nats = st.one_of(st.floats(0, 50), st.just(math.inf))


class TestSchedule:
    def test_linear_by_hand(self):
        schedule = Schedule(start=2.0, end=1.0, steps=4)
        assert [schedule.at(step) for step in range(6)] == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]

    def test_cosine_by_hand(self):
        """(1 - cos(pi / 4)) / 2 = 0.146447."""
        schedule = Schedule(start=0.0, end=2.0, steps=4, shape="cosine")
        expected = [0.0, 0.292893, 1.0, 1.707107, 2.0, 2.0]
        assert [schedule.at(s) for s in range(6)] == pytest.approx(expected, abs=1e-6)

    def test_times(self):
        schedule = Schedule(start=2.0, end=1.0, steps=4, shape="cosine").times(0.5)
        assert schedule == Schedule(start=1.0, end=0.5, steps=4, shape="cosine")

    def test_nothing_scheduled_is_refused(self):
        with pytest.raises(ValidationError, match="start and end are both 1, so nothing"):
            Schedule(start=1.0, end=1.0, steps=4)

    @pytest.mark.parametrize(
        "options",
        [
            {"start": -1.0},
            {"end": math.inf},
            {"end": math.nan},
            {"steps": 0},
            {"shape": "square"},
            {"begin": 0},
        ],
    )
    def test_wrong_options(self, options):
        with pytest.raises(ValidationError):
            TypeAdapter(Schedule).validate_python({"start": 0.0, "end": 1.0, "steps": 2} | options)


class TestShares:
    def test_softmax_by_hand(self):
        """exp(0) : exp(-ln 3) = 3 : 1 of a weight of 2."""
        assert soft_shares([1.0, 1.0], [0.5, 0.5 + math.log(3)], 1.0) == pytest.approx([1.5, 0.5])

    def test_written_weights_are_priors(self):
        """3 : 1 times 1 : 3 is 1 : 1, so each gets 2 of the 4."""
        found = soft_shares([1.0, 3.0], [0.5, 0.5 + math.log(3)], 1.0)
        assert found == pytest.approx([2.0, 2 / 3])

    @pytest.mark.parametrize("scheme", SHARING, ids=repr)
    def test_confidence_reads_bytes_and_the_published_form_tokens(self, scheme):
        """A is better per token, B per byte."""
        a, b = scheme.shares([1.0, 1.0], [A, B])
        per_token = getattr(scheme, "per", "byte") == "token"
        assert (a > b) == per_token

    def test_values_of_the_schemes(self):
        """Nats differ by 0.1 a byte, e at temperature 0.1, and by 0.5 a token."""
        even = 2 / (1 + math.e)
        assert Confidence().shares([1.0, 1.0], [A, B]) == pytest.approx([even, math.e * even])
        uneven = 2 / (1 + math.exp(0.5))
        expected = pytest.approx([math.exp(0.5) * uneven, uneven])
        assert TeacherCe().shares([1.0, 1.0], [A, B]) == expected
        assert TeacherEntropy().shares([1.0, 1.0], [A, B]) == expected
        assert Select().shares([1.0, 3.0], [A, B]) == [0.0, pytest.approx(4 / 3)]
        assert Select(per="token").shares([1.0, 3.0], [A, B]) == [4.0, 0.0]

    def test_ce_per_byte_is_confidence(self):
        per_byte = TeacherCe(per="byte", temperature=0.1)
        assert per_byte.shares([1.0, 2.0], [A, B]) == Confidence().shares([1.0, 2.0], [A, B])

    def test_published_softmax_of_alpha_times_score(self):
        """softmax(alpha * -ce) for weights that add up to one, alpha = 1 / temperature."""
        scores = torch.tensor([-1.5, -2.0], dtype=torch.float64)
        for alpha in (0.5, 1.0, 4.0):
            found = TeacherCe(temperature=1 / alpha).shares([0.5, 0.5], [A, B])
            expected = torch.softmax(alpha * scores, 0).tolist()
            assert [0.5 * share for share in found] == pytest.approx(expected)

    @pytest.mark.parametrize("kind", [Confidence, TeacherCe, TeacherEntropy])
    def test_temperature_changes_the_result(self, kind):
        found = [kind(temperature=t).shares([1.0, 1.0], [A, B])[0] for t in (0.1, 1.0, 1e9)]
        assert len({round(share, 6) for share in found}) == 3
        assert found[2] == pytest.approx(1)

    @pytest.mark.parametrize("kind", [TeacherCe, TeacherEntropy, Select])
    def test_per_changes_the_result(self, kind):
        per_byte, per_token = (kind(per=p).shares([1.0, 1.0], [A, B]) for p in ("byte", "token"))
        assert per_byte != per_token

    def test_what_is_asked_of_teachers(self):
        asked = {name: kind().asks for name, kind in SCHEMES.items()}
        assert asked == {
            "constant": None,
            "confidence": "ce",
            "dynamic": None,
            "teacher_ce": "ce",
            "teacher_entropy": "entropy",
            "select": "ce",
            "gradmag": None,
        }
        assert Select(metric="entropy").asks == "entropy"

    @pytest.mark.parametrize("shares", [hard_shares, lambda w, m: soft_shares(w, m, 0.5)])
    @given(data=st.data(), written=weights)
    def test_the_sum_stays(self, data, shares, written):
        scores = data.draw(st.lists(nats, min_size=len(written), max_size=len(written)))
        found = shares(written, scores)
        total = math.fsum(w * f for w, f in zip(written, found, strict=True))
        assert total == pytest.approx(math.fsum(written), rel=1e-9)
        assert min(found) >= 0

    @given(data=st.data(), written=weights, temperature=st.floats(0.01, 10))
    def test_order_of_teachers_does_not_show(self, data, written, temperature):
        scores = data.draw(st.lists(nats, min_size=len(written), max_size=len(written)))
        found = soft_shares(written, scores, temperature)
        turned = soft_shares(written[::-1], scores[::-1], temperature)
        assert turned[::-1] == pytest.approx(found)

    @given(st.floats(0, 10), st.floats(0.001, 10))
    def test_select_is_the_limit_of_low_temperature(self, nats, gap):
        scores = [nats + gap, nats]
        assert soft_shares([1.0, 3.0], scores, 1e-6) == pytest.approx(
            hard_shares([1.0, 3.0], scores)
        )

    def test_a_better_teacher_never_gets_less(self):
        found = [soft_shares([1.0, 1.0], [m, 1.0], 0.3)[0] for m in (2.0, 1.5, 1.0, 0.5)]
        assert found == sorted(found)

    @pytest.mark.parametrize("shares", [hard_shares, lambda w, m: soft_shares(w, m, 0.1)])
    def test_teachers_without_a_say(self, shares):
        nothing = math.inf
        assert shares([1.0, 2.0], [nothing, nothing]) == [1.0, 1.0]
        assert shares([1.0, 2.0], [nothing, 0.1]) == [0.0, 1.5]
        assert shares([0.0, 0.0], [0.2, 0.1]) == [1.0, 1.0]
        better_but_off = shares([0.0, 2.0], [0.1, 90.0])
        assert better_but_off[1] == pytest.approx(1)

    def test_equals_go_to_the_first(self):
        assert hard_shares([1.0, 1.0], [0.5, 0.5]) == [2.0, 0.0]


class TestTeacherScore:
    def test_means(self):
        assert (A.mean("byte"), A.mean("token")) == (0.5, 1.5)
        assert TeacherScore(0.0, 0, 0).mean("byte") == math.inf

    def test_nothing_of_an_absent_teacher_is_sent(self):
        assert Absent().num_bytes == 0


class TestMovingAverage:
    def test_by_hand(self):
        first = moving_average(None, (4.0, 1.0), 0.75)
        assert first == (4.0, 1.0)
        assert moving_average(first, (8.0, 1.0), 0.75) == (5.0, 1.0)

    def test_decay_zero_is_the_last_step(self):
        assert moving_average((4.0, 1.0), (8.0, 2.0), 0.0) == (8.0, 2.0)

    def test_nothing_measured_keeps_the_average(self):
        """Else a teacher whose documents are rare would grow without bound."""
        assert moving_average((4.0, 0.0), (0.0, 0.0), 0.5) == (4.0, 0.0)
        assert moving_average((4.0, 0.0), (0.0, 3.0), 0.5) == (4.0, 3.0)

    @pytest.mark.parametrize("kind", [Dynamic, GradMag])
    def test_decay_changes_the_result(self, kind):
        found = [kind(decay=d).averaged((1.0, 1.0), (2.0, 3.0)) for d in (0.0, 0.5)]
        assert found == [(2.0, 3.0), (1.5, 2.0)]


class TestDynamic:
    def test_one_teacher_is_the_published_form(self):
        """CE 3, KD 0.5: the factor is 6, and the loss twice the cross-entropy."""
        found = Dynamic().weights((1.0, 1.0), (3.0, 0.5))
        assert found == (1.0, 6.0)
        assert found[0] * 3.0 + found[1] * 0.5 == 6.0

    def test_two_teachers_whose_weights_add_up_to_one_are_the_published_form(self):
        ce, kd = 3.0, (0.5, 2.0)
        published = ce / (0.25 * kd[0] + 0.75 * kd[1])
        found = Dynamic().weights((1.0, 0.25, 0.75), (ce, *kd))
        assert found == pytest.approx((1.0, 0.25 * published, 0.75 * published))

    @given(
        st.floats(0.01, 10),
        st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.1, 10)), min_size=1, max_size=4),
    )
    def test_the_teachers_add_as_much_as_their_weights_say(self, ce, rows):
        written, losses = zip(*rows, strict=True)
        found = Dynamic(max_scale=1e9).weights((0.5, *written), (ce, *losses))
        added = math.fsum(w * k for w, k in zip(found[1:], losses, strict=True))
        assert added == pytest.approx(math.fsum(written) * ce)
        assert found[0] == 0.5

    def test_cut_off(self):
        assert Dynamic().weights((1.0, 1.0), (3.0, 1e-9)) == (1.0, 100.0)
        assert Dynamic(max_scale=7.0).weights((1.0, 1.0), (3.0, 1e-9)) == (1.0, 7.0)

    def test_nothing_measured_leaves_the_weights(self):
        assert Dynamic().weights((1.0, 2.0), (3.0, 0.0)) == (1.0, 2.0)
        assert Dynamic().weights((1.0, 2.0), (0.0, 3.0)) == (1.0, 2.0)
        assert Dynamic().weights((1.0, 0.0), (3.0, 3.0)) == (1.0, 0.0)

    def test_a_negative_total_is_not_turned_around(self):
        assert Dynamic().weights((1.0, 1.0), (3.0, -0.5)) == (1.0, 6.0)


class TestGradMag:
    NORMS = tuple(GOLDEN["outputs"]["global_norms"])

    def test_golden_norms_are_those_of_the_inputs(self):
        gradients = [
            torch.cat([torch.tensor(w).flatten(), torch.tensor(b)])
            for w, b in zip(GOLDEN["inputs"]["w"], GOLDEN["inputs"]["b"], strict=True)
        ]
        assert [float(g.norm()) for g in gradients] == pytest.approx(self.NORMS)

    def test_golden_weights(self):
        """Published weights add up to one, so written weights of a third each."""
        found = GradMag().weights((1 / 3,) * 3, self.NORMS)
        assert found == pytest.approx(GOLDEN["outputs"]["preserve_mag_weights"], rel=1e-6)

    def test_golden_last_layer(self):
        found = GradMag().weights((1 / 3,) * 3, self.NORMS)
        for name in ("w", "b"):
            gradients = torch.tensor(GOLDEN["inputs"][name])
            mixed = torch.einsum("i,i...->...", torch.tensor(found), gradients)
            expected = torch.tensor(GOLDEN["outputs"]["last_layer_preserve_mag"][name])
            torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-6)

    @given(weights, st.data())
    def test_every_term_moves_as_its_weight_says(self, written, data):
        size = len(written)
        norms = data.draw(st.lists(st.floats(0.01, 100), min_size=size, max_size=size))
        found = GradMag().weights(tuple(written), tuple(norms))
        assert math.fsum(found) == pytest.approx(math.fsum(written))
        moved = [w * n / u for w, n, u in zip(found, norms, written, strict=True)]
        assert moved == pytest.approx([moved[0]] * size, rel=1e-5)

    def test_by_hand(self):
        """2 / 4 : 1 / 1 = 1 : 2 of a sum of 3."""
        assert GradMag().weights((2.0, 1.0), (4.0, 1.0)) == pytest.approx((1.0, 2.0))

    def test_unmeasured_and_switched_off_terms(self):
        found = GradMag().weights((1.0, 2.0, 0.0, 5.0), (1.0, 2.0, 3.0, 0.0))
        assert found == pytest.approx((1.5, 1.5, 0.0, 5.0))
        assert GradMag().weights((1.0, 2.0), (0.0, 0.0)) == (1.0, 2.0)
        assert GradMag().weights((0.0, 2.0), (1.0, 0.0)) == (0.0, 2.0)


def test_constant_leaves_everything():
    assert Constant().weights((1.0, 2.0), ()) == (1.0, 2.0)
    assert Constant().shares([1.0, 2.0], [A, B]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Confidence, {"temperature": 0.0}),
        (Confidence, {"temperature": math.inf}),
        (Confidence, {"per": "token"}),
        (TeacherCe, {"per": "word"}),
        (TeacherEntropy, {"temperature": -1.0}),
        (Select, {"metric": "max_prob"}),
        (Select, {"temperature": 1.0}),
        (Dynamic, {"decay": 1.0}),
        (Dynamic, {"max_scale": 0.0}),
        (GradMag, {"decay": -0.1}),
        (GradMag, {"max_scale": 2.0}),
        (Constant, {"decay": 0.5}),
    ],
)
def test_wrong_options(kind, options):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(options)
