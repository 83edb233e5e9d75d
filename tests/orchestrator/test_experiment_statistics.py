"""Means, errors, intervals and verdicts of paired differences, by hand; and how they are told."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.checkpoint import Inputs, Tally
from orchestrator.config import load_experiment
from orchestrator.evaluation import Lead
from orchestrator.experiment.plan import Trial, plan
from orchestrator.experiment.results import as_data, results_of
from orchestrator.experiment.statistics import (
    Difference,
    Mean,
    Verdict,
    difference,
    mean_of,
    t_975,
)
from orchestrator.experiment.table import sentence, table
from orchestrator.outcome import Outcome
from teachers.document_score import DocumentScore


def row(bits: float, num_bytes: int = 10) -> DocumentScore:
    return DocumentScore(bits * math.log(2), num_bytes, 1)


def test_mean_by_hand():
    found = mean_of([0.1, 0.2, 0.6])
    assert found.value == pytest.approx(0.3)
    # Squares 0.04 + 0.01 + 0.09 = 0.14, halved 0.07, by three and rooted.
    assert found.standard_error == pytest.approx(math.sqrt(0.07 / 3))
    low, high = found.interval
    assert (low, high) == (
        pytest.approx(0.3 - 4.303 * 0.152753, abs=1e-5),
        pytest.approx(0.95729, abs=1e-4),
    )


def test_one_seed_has_no_error():
    assert mean_of([0.5]) == Mean(0.5, None, 1)
    assert mean_of([0.5]).interval is None
    with pytest.raises(ValueError, match="no value"):
        mean_of([])


@pytest.mark.parametrize(
    ("freedom", "value"),
    [(1, 12.706), (2, 4.303), (10, 2.228), (11, 2.201), (30, 2.042), (120, 1.980)],
)
def test_students_t(freedom, value):
    assert t_975(freedom) == pytest.approx(value, abs=1e-3)


def test_no_degrees_of_freedom():
    with pytest.raises(ValueError, match="0 degrees of freedom"):
        t_975(0)


class TestDifference:
    def test_by_hand(self):
        """Two documents of 10 and 30 bytes; the arm saves 4 bits in seed 0 and 8 in seed 1."""
        ours = {0: [row(9), row(29, 30)], 1: [row(8), row(26, 30)]}
        theirs = {1: [row(10), row(32, 30)], 0: [row(10), row(32, 30)], 2: [row(1), row(1, 30)]}
        found = difference("a", "b", ours, theirs)
        assert found.seeds == (0, 1)
        assert found.by_seed == (pytest.approx(4 / 40), pytest.approx(8 / 40))
        assert found.over_seeds.value == pytest.approx(0.15)
        assert found.over_seeds.standard_error == pytest.approx(0.05)
        # Documents added over the seeds: 3 bits of 20 bytes and 9 bits of 60 bytes.
        assert found.over_documents.value == pytest.approx(12 / 80)
        assert found.over_documents.low == pytest.approx(3 / 20)
        assert found.over_documents.high == pytest.approx(9 / 60)

    @given(st.lists(st.tuples(*[st.floats(1.0, 99.0)] * 4), min_size=1, max_size=5))
    def test_turned_round(self, rows):
        ours = {0: [row(a) for a, *_ in rows], 1: [row(b) for _, b, *_ in rows]}
        theirs = {0: [row(c) for *_, c, _ in rows], 1: [row(d) for *_, d in rows]}
        there, back = difference("a", "b", ours, theirs), difference("b", "a", theirs, ours)
        assert there.over_seeds.value == pytest.approx(-back.over_seeds.value, abs=1e-12)
        assert there.over_seeds.standard_error == pytest.approx(
            back.over_seeds.standard_error, abs=1e-12
        )

    def test_no_common_seed(self):
        with pytest.raises(ValueError, match="a and b have no seed in common"):
            difference("a", "b", {0: [row(1)]}, {1: [row(1)]})

    @pytest.mark.parametrize(
        ("mean", "documents", "verdict"),
        [
            (Mean(0.1, 0.01, 3), (0.05, 0.2), Verdict.BETTER),
            (Mean(-0.1, 0.01, 3), (-0.2, -0.05), Verdict.WORSE),
            (Mean(0.1, 0.01, 3), (-0.01, 0.2), Verdict.UNCLEAR),
            # 0.1 is 3.3 standard errors, but Student's t with three seeds asks for 4.3.
            (Mean(0.1, 0.03, 3), (0.05, 0.2), Verdict.UNCLEAR),
            (Mean(0.1, 0.01, 3), (-0.2, -0.05), Verdict.UNCLEAR),
            (Mean(0.1, None, 1), (0.05, 0.2), Verdict.BETTER),
            (Mean(0.1, None, 1), (-0.05, 0.2), Verdict.UNCLEAR),
        ],
    )
    def test_verdict(self, mean, documents, verdict):
        found = Difference("a", "b", (0,), (0.1,), mean, Lead(0.1, *documents))
        assert found.verdict is verdict


def outcome(trial: Trial, bits: float) -> Outcome:
    """Two held-out documents of 10 bytes; 40 bits each before training."""
    tally = Tally(seconds=60.0, num_tokens=1, num_shares=2, shares={"ce": 1.5})
    after = [row(bits), row(bits + 1)]
    teachers = {t.name: [row(5), row(5)] for t in trial.config.teachers}
    return Outcome(6, Inputs({}), [row(40), row(40)], after, teachers, tally)


@pytest.fixture
def results():
    """The shipped toy experiment with made-up scores: kl is the better part."""
    experiment = load_experiment("experiments/smoke.yaml")
    bits = {"ce": 30, "kl": 20, "alm": 25, "kl+alm": 15}
    trials = plan(experiment)
    outcomes = {(t.arm, t.seed): outcome(t, bits[t.arm] + 0.1 * t.seed) for t in trials}
    return results_of(experiment, trials, outcomes)


def test_results_by_hand(results):
    assert results.before == 4.0
    assert results.original is None
    assert {arm.gap_recovered for arm in results.arms} == {None}
    assert results.teachers == {"bytelevel": 0.5, "sentencepiece": 0.5}
    kl = results.arms[1]
    assert (kl.name, kl.methods) == ("kl", {"bytelevel": ["kl"]})
    assert kl.bits_per_byte == {0: pytest.approx(2.05), 1: pytest.approx(2.06)}
    assert kl.gradient_share == {"ce": 0.75}
    assert [d.arm for d in results.against_baseline] == ["kl", "alm", "kl+alm"]
    assert [(d.arm, d.other) for d in results.combined] == [("kl+alm", "kl")]
    assert results.combined[0].over_seeds.value == pytest.approx(0.5)
    assert as_data(results)["combined"][0]["verdict"] == "better"


def test_sentence(results):
    assert sentence(results.combined[0], results) == (
        "Two teachers (`kl+alm`) are better than the better one (`kl`) by 0.5000 ± 0.0000 bits "
        "per byte over 2 seeds."
    )
    unclear = Difference("kl+alm", "kl", (0, 1), (0.0, 0.2), Mean(0.1, 0.1, 2), Lead(0.1, 0.0, 0.2))
    assert sentence(unclear, results) == (
        "Two teachers (`kl+alm`) and the better one (`kl`) are not distinguishable: a difference "
        "of +0.1000 ± 0.1000 bits per byte over 2 seeds."
    )


def test_table(results):
    lines = table(results).splitlines()
    assert "| `ce` | 3.0500 | 3.0600 | 3.0550 ± 0.0050 | 0.003 | ce 75% |" in lines
    assert "| *teacher bytelevel* |  |  | 0.5000 |  |  |" in lines
    assert any(line.startswith("| `kl` − `ce` | +1.0000 ± 0.0000 |") for line in lines)
    assert lines[-1].startswith("- Two teachers (`kl+alm`) are better")


def test_gap_recovered_by_a_transfer():
    """40 bits on 10 bytes before, 5 of the original: 3.5 bits per byte were lost."""
    experiment = load_experiment("experiments/transfer_subword.yaml")
    bits = {"sft": 30, "alm": 12}
    trials = plan(experiment)
    outcomes = {(t.arm, t.seed): outcome(t, bits[t.arm] + 0.35 * t.seed) for t in trials}
    found = results_of(experiment, trials, outcomes)
    assert found.original == "original"
    sft, alm = found.arms
    # 3.05, 3.085 and 3.12 bits per byte: 0.95, 0.915 and 0.88 of 3.5.
    assert sft.gap_recovered.value == pytest.approx(0.915 / 3.5)
    assert sft.gap_recovered.standard_error == pytest.approx(0.035 / 3**0.5 / 3.5)
    lines = table(found).splitlines()
    row = "| `sft` | 3.0500 | 3.0850 | 3.1200 | 3.0850 ± 0.0202 | 26.1% ± 0.6% | 2e-05 | ce 75% |"
    assert row in lines
    assert "| *teacher original* |  |  |  | 0.5000 |  |  |  |" in lines
    assert any("the original is *teacher original*" in line for line in lines)
    assert as_data(found)["arms"][1]["gap_recovered"]["value"] == alm.gap_recovered.value
