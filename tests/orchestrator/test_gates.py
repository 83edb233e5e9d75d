"""Each gate passes on healthy models and catches the fault that it is there for."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from losses.alignment.tokens import Tokens
from losses.document import Document, Segment, text_document
from losses.methods import method_class
from losses.methods.alm import Alm
from losses.methods.kl import Kl
from losses.signals import TokenLikelihoods
from orchestrator.config.checks import ChecksConfig
from orchestrator.errors import ConfigError
from orchestrator.gates.arm import gates_of, report
from orchestrator.gates.chosen import spread
from orchestrator.gates.student import check
from orchestrator.gates.verdict import Gates, Verdict
from orchestrator.student.module import DistillModule, Example
from teachers.backends.transformers import LanguageModel
from teachers.teacher import Teacher

TERMS = {"same/kl", "other/alm"}


def module_of(lab) -> DistillModule:
    return DistillModule(lab.build_student(), lab.terms())


def examples_of(lab, module: DistillModule) -> list[Example]:
    tokens = module.student.encode(lab.documents)
    return [Example(*row) for row in zip(lab.documents, tokens, lab.signals, strict=True)]


GATES = Gates(likelihood=False)
"""The random teachers here are bad at text."""


def verdicts_of(lab, **gates) -> list[Verdict]:
    module = module_of(lab)
    return check(module, examples_of(lab, module), 3, replace(GATES, **gates))


def failing(verdicts: list[Verdict]) -> dict[tuple[str, str], str]:
    return {(v.gate, v.term): v.problem for v in verdicts if not v.passed}


@pytest.fixture(scope="module")
def lab(distillation):
    """Kl and alm, with two teachers unlike the student."""
    return distillation()


class TestHealthy:
    def test_every_gate_passes(self, lab):
        verdicts = verdicts_of(lab)
        assert {v.term for v in verdicts if v.gate == "identity"} == TERMS
        assert {v.term for v in verdicts if v.gate == "chunked"} == {"ce", *TERMS}
        assert {v.term for v in verdicts if v.gate == "order"} == {"ce", *TERMS}
        shares = {v.term: v.value for v in verdicts if v.gate == "coverage"}
        assert shares["same"] == 1
        assert 0.9 < shares["other"] <= 1
        assert failing(verdicts) == {}

    def test_the_models_stay_as_they_were(self, lab):
        module = module_of(lab)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        for training in (True, False):
            module.model.train(training)
            check(module, examples_of(lab, module), 2, GATES)
            assert all(m.training == training for m in module.model.modules())
        assert all(torch.equal(before[n], value) for n, value in module.state_dict().items())
        assert all(p.grad is None for p in module.parameters())

    def test_dropout_is_no_fault(self, lab):
        module = module_of(lab)
        module.model.model.layers[0].mlp.register_forward_hook(
            lambda mlp, _, output: torch.nn.functional.dropout(output, 0.5, mlp.training)
        )
        module.model.train()
        assert failing(check(module, examples_of(lab, module), 2, GATES)) == {}

    def test_each_gate_can_be_left_out(self, lab):
        off = {"identity": False, "chunked": False, "order": False, "min_coverage": None}
        assert verdicts_of(lab, **off) == []
        for name in ("identity", "chunked", "order"):
            assert {v.gate for v in verdicts_of(lab, **off | {name: True})} == {name}
        assert {v.gate for v in verdicts_of(lab, **off | {"min_coverage": 0.5})} == {"coverage"}

    def test_no_teachers(self, lab):
        module = DistillModule(lab.build_student(), [])
        alone = replace(lab, signals=[() for _ in lab.documents])
        verdicts = check(module, examples_of(alone, module), 2, GATES)
        assert {(v.gate, v.term) for v in verdicts} == {("chunked", "ce"), ("order", "ce")}
        assert failing(verdicts) == {}

    @pytest.mark.parametrize("divergence", ["reverse", "js", "skewed_forward", "tvd", "adaptive"])
    def test_every_divergence_is_zero_at_identity(self, distillation, divergence):
        lab = distillation({"same": Kl(divergence=divergence, temperature=2.0)})
        assert [v.passed for v in verdicts_of(lab) if v.gate == "identity"] == [True]

    @pytest.mark.parametrize("divergence", ["binary_kl", "abs", "renyi", "joschu_k3", "abs_exp"])
    def test_every_coin_is_zero_at_identity(self, distillation, divergence):
        lab = distillation({"other": Alm(divergence=divergence)})
        assert [v.passed for v in verdicts_of(lab) if v.gate == "identity"] == [True]

    def test_cross_entropy_of_coins_is_not_expected_to_be_zero(self, distillation):
        lab = distillation({"other": Alm(divergence="binary_ce")})
        assert [v for v in verdicts_of(lab) if v.gate == "identity"] == []

    def test_nothing_scored_on_the_students_tokens(self, lab):
        """A document whose only scored bytes are inside a token: every loss is zero."""
        cut = Document("cut", (Segment("prompt", b"Nob", False), Segment("completion", b"o", True)))
        rows = [Teacher(m, [lab.methods[n]]).signals([cut]) for n, m in lab.teachers.items()]
        signals = [sum(parts, ()) for parts in zip(*rows, strict=True)]
        more = replace(lab, documents=[*lab.documents, cut], signals=[*lab.signals, *signals])
        assert failing(verdicts_of(more)) == {}


class TestIdentity:
    def test_label_shifted_by_one_in_kl(self, lab, monkeypatch):
        sent = Kl.signal

        def shifted(self, teacher, document):
            signal = sent(self, teacher, document)
            return replace(signal, hidden=np.roll(signal.hidden, 1, axis=0))

        monkeypatch.setattr(Kl, "signal", shifted)
        found = failing(verdicts_of(lab))
        assert set(found) == {("identity", "same/kl")}
        assert "same/kl is off by" in found["identity", "same/kl"]
        assert "a row too early or too late" in found["identity", "same/kl"]

    def test_label_shifted_by_one_in_alm(self, lab, monkeypatch):
        sent = Alm.signal

        def shifted(self, teacher, document):
            signal = sent(self, teacher, document)
            logprob = np.roll(signal.logprob, 1)
            return replace(signal, logprob=np.where(np.isnan(signal.logprob), np.nan, logprob))

        monkeypatch.setattr(Alm, "signal", shifted)
        assert set(failing(verdicts_of(lab))) == {("identity", "other/alm")}

    def test_another_head(self, lab, monkeypatch):
        """The teacher's side leaves out a scale that the student's side has."""
        module = module_of(lab)
        head = replace(module.student.head, scale=0.7)
        kept = Kl.loss

        def loss(self, student, signal, pair, modules):
            return kept(self, student, signal, replace(pair, teacher_head=head), modules)

        monkeypatch.setattr(Kl, "loss", loss)
        assert ("identity", "same/kl") in failing(verdicts_of(lab))

    def test_not_a_number(self, lab, monkeypatch):
        kept = Kl.loss

        def loss(self, student, signal, pair, modules):
            found = kept(self, student, signal, pair, modules)
            return replace(found, total=found.total * math.nan)

        monkeypatch.setattr(Kl, "loss", loss)
        assert {gate for gate, _ in failing(verdicts_of(lab))} == {"identity", "chunked", "order"}


class TestCoverage:
    def test_tokens_of_another_tokenizer(self, lab, tokenizers, monkeypatch):
        """The teacher is given another tokenizer's ids: its byte ends drift off the text."""
        model: LanguageModel = lab.teachers["other"]
        widths = np.array([len(b or b"") for b in model.tokenizer.vocabulary.token_bytes])

        def wrong(documents):
            found = []
            for view in tokenizers["bytelevel"].encode(documents):
                ids = view.ids % len(widths)
                found.append(Tokens(ids, np.cumsum(widths[ids])))
            return found

        monkeypatch.setattr(model.tokenizer, "encode", wrong)
        texts = [d for d in lab.documents if len(d.segments) == 1]
        wrongly = [row[0] for row in Teacher(model, [Alm()]).signals(texts)]
        signals = [(row[0], wrong) for row, wrong in zip(lab.signals, wrongly, strict=False)]
        verdicts = verdicts_of(replace(lab, documents=texts, signals=signals))
        found = failing(verdicts)
        assert set(found) == {("coverage", "other")}
        assert {v.gate for v in verdicts} == {"coverage"}  # the rest would say it again
        problem = found["coverage", "other"]
        assert "teacher other's tokens of document d0 end at byte" in problem
        assert "check that teachers.other.model has its own tokenizer" in problem

    @pytest.fixture
    def coarse(self, lab):
        """One document of which the teacher knows only the first word."""
        length = len(lab.documents[0].content)
        known = TokenLikelihoods(
            np.array([-1, 4, length], np.int32),
            np.array([np.nan, -1, np.nan], np.float32),
            np.zeros(3, np.float32),
        )
        return replace(lab, documents=lab.documents[:1], signals=[(lab.signals[0][0], known)])

    def test_sample_shows_both_cuts(self, coarse):
        [problem] = failing(verdicts_of(coarse)).values()
        assert "9.1% of the scored bytes" in problem
        assert "expected at least 50% (checks.min_coverage)" in problem
        assert "From byte 4 of document d0" in problem
        assert "the teacher 'The |quick brown fox jum" in problem

    def test_threshold(self, coarse):
        assert failing(verdicts_of(coarse, min_coverage=4 / 44)) == {}
        assert set(failing(verdicts_of(coarse, min_coverage=0.1))) == {("coverage", "other")}

    def test_unscored_bytes_do_not_count(self, lab):
        index = next(i for i, d in enumerate(lab.documents) if len(d.segments) == 2)
        rows = {"documents": [lab.documents[index]], "signals": [lab.signals[index]]}
        shares = [v.value for v in verdicts_of(replace(lab, **rows)) if v.gate == "coverage"]
        assert shares == [1, 1]


class TestLikelihood:
    def test_teacher_that_knows_the_text(self, lab):
        module = module_of(lab)
        limit = math.log(len(lab.teachers["other"].tokenizer.vocabulary))
        verdicts = check(module, likely(examples_of(lab, module), 2.5), 3, Gates())
        found = [v for v in verdicts if v.gate == "likelihood"]
        assert found == [Verdict("likelihood", "other", 2.5, limit)]

    def test_teacher_worse_than_a_guess(self, lab):
        """As one that reads another tokenizer's ids at the right byte ends: alignment is fine."""
        verdicts = verdicts_of(lab, likelihood=True)
        found = failing(verdicts)
        assert set(found) == {("likelihood", "other")}
        assert "more than the 6.64 of a guess among its 768 tokens" in found["likelihood", "other"]
        assert {v.gate for v in verdicts} == {"coverage", "likelihood"}

    def test_method_that_reads_other_rows_tells_nothing(self, lab, monkeypatch):
        """TRL's "observed" merging asks the row after each token."""
        assert not method_class("gold")(merge="observed").tells_likelihoods
        assert not method_class("uld")(merge="observed").tells_likelihoods
        assert method_class("gold")().tells_likelihoods
        monkeypatch.setattr(method_class("alm"), "tells_likelihoods", False)
        assert "likelihood" not in {v.gate for v in verdicts_of(lab, likelihood=True)}


def likely(examples: list[Example], nats: float) -> list[Example]:
    """The same documents with a teacher that needs so many nats for each token."""
    found = []
    for example in examples:
        states, told = example.signals
        logprob = np.where(np.isnan(told.logprob), np.nan, -nats).astype(np.float32)
        found.append(replace(example, signals=(states, replace(told, logprob=logprob))))
    return found


class TestChunked:
    def test_rows_that_know_their_neighbours(self, lab, monkeypatch):
        kept = Kl._divergence
        monkeypatch.setattr(Kl, "_divergence", lambda self, p, q: kept(self, p, q) * len(p) / 10.0)
        found = failing(verdicts_of(lab))
        assert set(found) == {("chunked", "same/kl")}
        assert "map_rows" in found["chunked", "same/kl"]


class TestOrder:
    def test_padding_leaks(self, lab):
        module = module_of(lab)

        def leak(_, inputs, output):
            mean = output.last_hidden_state.mean(1, keepdim=True)
            return replace_states(output, output.last_hidden_state + 0.1 * mean)

        module.model.base_model.register_forward_hook(leak)
        found = failing(check(module, examples_of(lab, module), 3, GATES))
        assert ("order", "ce") in found
        assert {gate for gate, _ in found} == {"order"}
        assert "nats a byte on document" in found["order", "ce"]

    def test_a_neighbour_leaks(self, lab):
        module = module_of(lab)

        def leak(_, inputs, output):
            states = output.last_hidden_state
            return replace_states(output, states + 0.1 * states[:1])

        module.model.base_model.register_forward_hook(leak)
        assert ("order", "ce") in failing(check(module, examples_of(lab, module), 1, GATES))


def replace_states(output, states):
    output.last_hidden_state = states
    return output


class TestNumberFormats:
    def test_bfloat16(self, lab):
        module = module_of(lab)
        module.model.to(torch.bfloat16)
        verdicts = check(module, examples_of(lab, module), 3, GATES)
        limits = {(v.gate, v.term): v.limit for v in verdicts if v.gate != "coverage"}
        assert {gate: limit for (gate, _), limit in limits.items()} == {
            "identity": 0.005,
            "chunked": 0.01,
            "order": 0.05,
        }

    def test_a_teachers_head_in_bfloat16(self, distillation):
        """What the student computes alone keeps its own limit."""
        lab = distillation({"same": Kl()})
        teacher = lab.teachers["same"]
        teacher.model.to(torch.bfloat16)
        lab = replace(lab, signals=Teacher(teacher, [Kl()]).signals(lab.documents))
        verdicts = verdicts_of(lab)
        limits = {(v.gate, v.term): v.limit for v in verdicts}
        assert limits["order", "ce"] == limits["identity", "same/kl"] == 1e-5
        assert limits["order", "same/kl"] == 0.05
        assert limits["chunked", "same/kl"] == 0.01
        assert failing(verdicts) == {}

    def test_the_users_tolerance(self, lab):
        verdicts = verdicts_of(lab, tolerance=1e-12)
        assert {v.limit for v in verdicts if v.gate != "coverage"} == {1e-12}
        assert failing(verdicts)


class TestRun:
    def test_switches_of_the_run_file(self):
        assert gates_of(ChecksConfig()) == Gates()
        checks = ChecksConfig(coverage=False, likelihood=False, order=False, tolerance=0.5)
        off = {"likelihood": False, "order": False, "min_coverage": None}
        assert gates_of(checks) == Gates(**off, tolerance=0.5)

    def test_documents_from_the_shortest_to_the_longest(self):
        documents = [text_document(str(n), "x" * n) for n in (5, 1, 9, 3, 7)]
        assert [d.name for d in spread(documents, 3)] == ["1", "5", "9"]
        assert [d.name for d in spread(documents, 9)] == ["1", "3", "5", "7", "9"]
        assert [d.name for d in spread(documents, 1)] == ["9"]
        assert spread(documents, 0) == []

    def test_report_is_written_and_logged(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        report([Verdict("order", "ce", 0.0, 1.0)], [text_document("d", "x")], tmp_path, 0.5)
        assert json.loads((tmp_path / "gates.json").read_text()) == {
            "documents": ["d"],
            "seconds": 0.5,
            "gates": [
                {
                    "gate": "order",
                    "term": "ce",
                    "value": 0.0,
                    "limit": 1.0,
                    "problem": "",
                    "passed": True,
                }
            ],
        }
        assert caplog.messages == ["1 gates passed on 1 documents in 0.5 s"]

    def test_every_failure_is_told_and_the_report_is_still_written(self, tmp_path):
        bad = [Verdict("order", "ce", 1.0, 0.5, "first"), Verdict("order", "x", 1.0, 0.5, "second")]
        with pytest.raises(ConfigError, match="first\nsecond"):
            report(bad, [], tmp_path, 0.5)
        assert len(json.loads((tmp_path / "gates.json").read_text())["gates"]) == 2
