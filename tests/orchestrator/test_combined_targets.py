"""Combined targets in the run file and in the trainer: one loss, however batches are split."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from losses.alignment.projection import Projection, ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.base import Method, Pair
from losses.document import Document
from losses.methods.alm import Alm
from losses.methods.bld import Bld
from losses.methods.kl import Kl
from losses.mixture import Absent, Confidence, Constant, Dynamic, GradMag, Schedule, Scheme, Select
from losses.mixture.schedule import Total, total_of
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig, load_experiment, load_run, parse_run, to_yaml
from orchestrator.config.yaml_text import parse_yaml
from orchestrator.errors import ConfigError
from orchestrator.experiment.plan import plan
from orchestrator.experiment.results import is_part
from orchestrator.gates.verdict import Gates
from orchestrator.run import ce_only_config
from orchestrator.setup import set_up
from orchestrator.specs import student_spec
from orchestrator.student.ensemble import EnsembleTerm
from orchestrator.student.module import DistillModule, Term
from orchestrator.student.objective import Objective
from orchestrator.student.trainer import StudentTrainer
from orchestrator.validation import validate
from teachers.backends.transformers import LanguageModel
from teachers.inside import encode_inside
from teachers.teacher import Teacher

METHODS = {"alm": Alm(temperature=5.0), "kl": Kl(), "bld": Bld(converter="one_path")}
every_space = pytest.mark.parametrize("space", METHODS)
MEANS = ("arithmetic", "geometric")


def run(
    *methods: dict[str, Any] | list[dict[str, Any]],
    names: Sequence[str] = "abc",
    weight: Any = 1.0,
    **mixture: Any,
) -> RunConfig:
    teachers = [
        {
            "name": name,
            "model": name,
            "weight": weight,
            "methods": own if isinstance(own, list) else [own],
        }
        for name, own in zip(names, methods, strict=False)
    ]
    return parse_run(
        {
            "student": {"init": "x"},
            "teachers": teachers,
            "mixture": {"combine": "targets", **mixture},
            "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
            "output_dir": "x",
        },
        "run.yaml",
    )


KL, ALM, BLD = ({"name": name} for name in ("kl", "alm", "bld"))


REFUSED = {
    "one teacher": (
        (KL,),
        {},
        'mixture.combine: "targets" is the mean of two teachers or more',
    ),
    "mean of losses": (
        (KL, KL),
        {"combine": "losses", "mean": "geometric"},
        'mixture.mean: "geometric" has no effect where losses are combined; expected null, or',
    ),
    "unknown mean": (
        (KL, KL),
        {"mean": "harmonic"},
        'mixture.mean: "harmonic" is not allowed; expected "arithmetic" or "geometric" or null',
    ),
    "no shared space": (
        ({"name": "p_kl"}, {"name": "p_kl"}),
        {},
        "teachers[0] (a).methods[0]: the targets of p_kl do not lie in a space that "
        "teachers share, as do those of bld (bytes), alm (chunks on the common borders), kl "
        "(the student's vocabulary); expected bld, alm or kl for all teachers, or "
        'mixture.combine "losses"',
    ),
    "two spaces": (
        (KL, ALM),
        {},
        "teachers[1] (b).methods[0]: the targets of alm (chunks on the common borders) "
        "and kl (the student's vocabulary) do not meet; expected bld, alm or kl for all",
    ),
    "other options": (
        (ALM, ALM, ALM | {"temperature": 2}),
        {},
        "teachers[2] (c).methods[0]: alm has other options than that of a",
    ),
    "two methods": (
        (KL, [KL, ALM]),
        {},
        'teachers[1] (b).methods: mixture.combine "targets" makes one loss of one method, '
        "found kl, alm; expected one of: bld, alm, kl",
    ),
    "option of one teacher": (
        (ALM | {"weighting": "token_count"},) * 2,
        {},
        'teachers[0] (a).methods[0]: option "weighting" = token_count counts the tokens',
    ),
    "ends of tokens": (
        (BLD | {"converter": "eot"},) * 2,
        {},
        'teachers[0] (a).methods[0]: option "converter" = eot also tells where',
    ),
    "taken name": (
        (KL, KL),
        {"names": ("a", "ensemble")},
        'teachers[1] (ensemble).name: "ensemble" is what metrics call combined targets',
    ),
}


class TestRunFile:
    @pytest.mark.parametrize("method", [KL, ALM, BLD, ALM | {"temperature": 5}])
    def test_accepted(self, method):
        config = run(method, method | {"weight": 2.0})
        assert config.mixture.ensemble == "arithmetic"
        assert parse_run(parse_yaml(to_yaml(config), "resolved")) == config

    def test_mean(self):
        assert run(KL, KL, mean="geometric").mixture.ensemble == "geometric"
        assert run(KL, combine="losses").mixture.ensemble is None

    @pytest.mark.parametrize("scheme", ["constant", "confidence", "select", "dynamic", "gradmag"])
    def test_with_every_scheme(self, scheme):
        assert run(KL, KL, weights=scheme).mixture.ensemble

    @pytest.mark.parametrize("case", REFUSED)
    def test_refused(self, case):
        methods, others, message = REFUSED[case]
        with pytest.raises(ConfigError) as caught:
            run(*methods, **others)
        _, *lines = str(caught.value).splitlines()
        assert len(lines) == 1
        assert message in lines[0]


SMALL = ["data.train_limit=4", "data.held_out_limit=2", "mixture.combine=targets"]


def toy(method: str, *more: str) -> RunConfig:
    """The smoke run with one method of both teachers."""
    own = f"[{{name: {method}}}]"
    teachers = [
        f"{{name: {n}, model: asset:toy/{n}, device: cpu, methods: {own}}}"
        for n in ("bytelevel", "sentencepiece")
    ]
    return load_run("smoke.yaml", [*SMALL, f"teachers=[{', '.join(teachers)}]", *more])


def spec_of(config: RunConfig):
    setup = set_up(config)
    vocabularies = {t.name: t.vocabulary for t in setup.tokenizers}
    return setup, student_spec(config, Machine(2, 0.0), vocabularies, setup.projections)


class TestSpecs:
    def test_one_weight_and_one_name(self):
        _, spec = spec_of(toy("alm", "teachers.bytelevel.weight=3"))
        assert spec.names == ("ce", "ensemble/alm")
        assert spec.objective.weights == (1.0, 4.0)
        assert spec.ensemble == "arithmetic"
        assert [term.weight for term in spec.terms] == [3.0, 1.0]

    def test_scheduled_weights_are_added_at_each_step(self):
        weight = "teachers.bytelevel.weight={start: 0, end: 2, steps: 4}"
        _, spec = spec_of(toy("alm", weight))
        assert [spec.objective.written(step) for step in (0, 2, 9)] == [(1, 1), (1, 2), (1, 3)]
        assert spec.objective.has_state

    def test_w_goes_backwards_to_teachers_of_another_vocabulary(self):
        setup, spec = spec_of(toy("kl"))
        student, same, other = (t.vocabulary for t in setup.tokenizers)
        assert set(setup.projections) == {"sentencepiece"}
        w = spec.terms[1].projection
        assert (w.num_student, w.num_teacher) == (len(other), len(student))
        assert spec.terms[0].projection is None
        assert len(same) == len(student)

    def test_options_of_w_backwards(self):
        options = "teachers.sentencepiece.projection.top_k=1"
        w = spec_of(toy("kl", options))[1].terms[1].projection
        assert np.diff(w.offsets).max() == 1
        with pytest.raises(ConfigError, match="projection has no effect"):
            toy("kl", options, "mixture.combine=losses")
        with pytest.raises(ConfigError, match="projection has no effect"):
            toy("alm", options)

    def test_the_arm_without_teachers(self):
        spec = student_spec(ce_only_config(toy("kl")), Machine(2, 0.0), {})
        assert (spec.names, spec.objective) == (("ce",), Objective((1.0,), "bytes"))

    def test_validate_checks_the_ensemble_and_not_the_method(self):
        """Plain ``kl`` refuses the SentencePiece teacher."""
        assert list(validate(toy("kl")))
        with pytest.raises(ConfigError, match="method kl needs one vocabulary"):
            list(validate(toy("kl", "mixture.combine=losses")))
        reverse = [
            f"teachers.{n}.methods.kl.divergence=reverse" for n in ("bytelevel", "sentencepiece")
        ]
        with pytest.raises(
            ConfigError, match=r"teachers\[1\] \(sentencepiece\).*would be infinite"
        ):
            list(validate(toy("kl", *reverse)))


def test_total_of_weights():
    schedule = Schedule(start=0.0, end=1.0, steps=2)
    assert total_of([1.0, 2.0]) == 3.0
    assert total_of([1.0, schedule]) == Total((1.0, schedule))
    assert total_of([1.0, schedule]).at(1) == 1.5


@dataclass(frozen=True)
class Lab:
    """A student, two teachers with other tokenizers, and the same two methods for both."""

    build_student: Callable[[], LanguageModel]
    build_engine: Callable[[DistillModule], Any]
    teachers: dict[str, LanguageModel]
    documents: list[Document]
    projection: Projection

    def terms(self, method: Method, weights: dict[str, Any]) -> list[Term]:
        vocabulary = self.build_student().tokenizer.vocabulary
        found = []
        for name, weight in weights.items():
            model = self.teachers[name.rstrip("2")]
            own = model.tokenizer.vocabulary
            pair = Pair(vocabulary, own, projection=self.projection if "other" in name else None)
            term = Term(name, type(method).__name__.lower(), method, weight, pair)
            found.append(
                term.with_head(Teacher(model, []).head_weights().head(torch.device("cpu")))
            )
        return found

    def signals(self, method: Method, names: Sequence[str], documents, asks=None) -> list[Any]:
        rows = [
            Teacher(self.teachers[n.rstrip("2")], [method], asks=asks).signals(documents)
            for n in names
        ]
        return [sum(parts, ()) for parts in zip(*rows, strict=True)]

    def trainer(
        self,
        terms: Sequence[Term],
        mean: Any = "arithmetic",
        *,
        micro_batch: int = 6,
        scheme: Scheme | None = None,
        normalize: str = "bytes",
    ) -> StudentTrainer:
        weights: list[Any] = [term.weight for term in terms]
        if mean is not None:
            terms, weights = [EnsembleTerm.of(terms, mean)], [total_of(weights)]
        module = DistillModule(self.build_student(), terms)
        module.model.train()
        objective = Objective((0.5, *weights), normalize, scheme or Constant())
        return StudentTrainer(self.build_engine(module), objective, micro_batch, 512)

    def step(self, trainer, signals, documents=None, order=None, **more):
        documents = documents or self.documents
        order = order or range(len(documents))
        scored = sum(document.num_scored_bytes for document in documents)
        chosen = [documents[i] for i in order], [signals[i] for i in order]
        return trainer.step(*chosen, scored, **more)


@pytest.fixture(scope="module")
def lab(language_model, mixed_documents, distillation) -> Lab:
    def named(model: LanguageModel, name: str) -> LanguageModel:
        tokenizer = copy(model.tokenizer)
        tokenizer.name = name
        return replace(model, tokenizer=tokenizer)

    teachers = {
        "same": named(language_model("llama", "bytelevel", seed=1), "same"),
        "other": named(language_model("gemma2", "sentencepiece", seed=2), "other"),
    }
    ours, theirs = (teachers[name].tokenizer for name in ("same", "other"))
    back = build_projection(
        theirs.vocabulary,
        ours.vocabulary,
        partial(encode_inside, ours),
        ProjectionOptions(),
        partial(encode_inside, theirs),
    )
    plain = distillation().trainer(learning_rate=1e-4).engine
    return Lab(
        build_student=lambda: language_model("llama", seed=0),
        build_engine=lambda module: type(plain)(module, plain.options),
        teachers=teachers,
        documents=mixed_documents,
        projection=back,
    )


def same_gradients(one: StudentTrainer, other: StudentTrainer, atol: float = 1e-6) -> None:
    assert one.engine.gradients.keys() == other.engine.gradients.keys()
    for name, gradient in one.engine.gradients.items():
        torch.testing.assert_close(other.engine.gradients[name], gradient, atol=atol, rtol=1e-4)


TWO = {"same": 1.0, "other": 3.0}


class TestTraining:
    @every_space
    @pytest.mark.parametrize("normalize", ["bytes", "units"])
    def test_any_split_and_order_give_the_same_gradient(self, lab, space, normalize):
        method = METHODS[space]
        signals = lab.signals(method, TWO, lab.documents)
        whole = lab.trainer(lab.terms(method, TWO), normalize=normalize)
        expected = lab.step(whole, signals, measure_shares=True)
        assert len(expected.losses) == 2
        assert expected.weights == (0.5, 4.0)
        split = lab.trainer(lab.terms(method, TWO), micro_batch=2, normalize=normalize)
        found = lab.step(split, signals, order=[5, 0, 3, 1, 4, 2])
        assert found.losses == pytest.approx(expected.losses, rel=1e-5)
        same_gradients(whole, split)

    @pytest.mark.parametrize("mean", MEANS)
    @pytest.mark.parametrize(
        ("space", "name"), [("alm", "other"), ("kl", "same"), ("bld", "other")]
    )
    def test_equal_teachers_are_one_of_all_their_weight(self, lab, space, name, mean):
        method, two = METHODS[space], {name: 1.0, f"{name}2": 3.0}
        together = lab.trainer(lab.terms(method, two), mean)
        found = lab.step(together, lab.signals(method, two, lab.documents))
        alone = lab.trainer(lab.terms(method, {name: 4.0}), None)
        expected = lab.step(alone, lab.signals(method, [name], lab.documents))
        # bytes travel in half precision, so the mean is rounded once more
        tolerance = 1e-2 if space == "bld" else 1e-4
        assert found.loss == pytest.approx(expected.loss, rel=tolerance)
        same_gradients(alone, together, atol=5e-3 if space == "bld" else 1e-4)

    @every_space
    def test_means_weights_and_losses_differ(self, lab, space):
        method = METHODS[space]
        signals = lab.signals(method, TWO, lab.documents)

        def of(mean, **weights):
            trainer = lab.trainer(lab.terms(method, weights or TWO), mean)
            return lab.step(trainer, signals).losses[1]

        arithmetic, geometric = map(of, MEANS)
        assert abs(arithmetic - geometric) > 1e-3 * abs(arithmetic)
        assert abs(arithmetic - of("arithmetic", same=3.0, other=1.0)) > 1e-3 * abs(arithmetic)

    @every_space
    def test_order_of_teachers_does_not_matter(self, lab, space):
        method, turned = METHODS[space], dict(reversed(TWO.items()))
        one, other = (
            lab.step(
                lab.trainer(lab.terms(method, two)), lab.signals(method, two, lab.documents)
            ).loss
            for two in (TWO, turned)
        )
        assert other == pytest.approx(one, rel=1e-5)

    @every_space
    def test_a_document_of_one_teacher_teaches_with_all_the_weight(self, lab, space):
        method = METHODS[space]
        routed = [replace(document, teachers=("other",)) for document in lab.documents]
        signals = lab.signals(method, TWO, routed)
        assert all(isinstance(row[0], Absent) for row in signals)
        found = lab.step(lab.trainer(lab.terms(method, TWO)), signals, routed)
        alone = lab.trainer(lab.terms(method, {"same": 1e-30, "other": 4.0}))
        assert found.loss == pytest.approx(lab.step(alone, signals, routed).loss, rel=1e-6)
        nobody = [replace(document, teachers=()) for document in lab.documents]
        report = lab.step(
            lab.trainer(lab.terms(method, TWO)), lab.signals(method, TWO, nobody), nobody
        )
        assert report.losses[1] == 0

    def test_select_takes_each_document_from_its_best_teacher(self, lab):
        method = METHODS["alm"]
        signals = lab.signals(method, TWO, lab.documents, asks="ce")
        trainer = lab.trainer(lab.terms(method, TWO), scheme=Select())
        found = lab.step(trainer, signals)
        best = [
            ("same" if row[1].mean("byte") <= row[3].mean("byte") else "other",) for row in signals
        ]
        assert len(set(best)) == 2
        routed = [replace(d, teachers=t) for d, t in zip(lab.documents, best, strict=True)]
        expected = lab.step(
            lab.trainer(lab.terms(method, TWO)), lab.signals(method, TWO, routed), routed
        )
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)

    def test_confidence_moves_the_members_weights(self, lab):
        method = METHODS["alm"]
        asked = lab.signals(method, TWO, lab.documents, asks="ce")
        plain = lab.signals(method, TWO, lab.documents)
        found = lab.step(lab.trainer(lab.terms(method, TWO), scheme=Confidence()), asked)
        constant = lab.step(lab.trainer(lab.terms(method, TWO)), plain)
        flat = Confidence(temperature=1e9)
        assert abs(found.losses[1] - constant.losses[1]) > 1e-5
        assert lab.step(
            lab.trainer(lab.terms(method, TWO), scheme=flat), asked
        ).loss == pytest.approx(constant.loss, rel=1e-6)

    @pytest.mark.parametrize("scheme", [Dynamic(), GradMag()], ids=repr)
    def test_schemes_that_observe_see_one_loss(self, lab, scheme):
        method = METHODS["alm"]
        signals = lab.signals(method, TWO, lab.documents)
        trainer = lab.trainer(lab.terms(method, TWO), scheme=scheme)
        reports = [lab.step(trainer, signals) for _ in range(2)]
        assert all(len(report.weights) == 2 for report in reports)
        assert reports[0].weights != (0.5, 4.0)

    def test_a_schedule_moves_the_proportions(self, lab):
        """From one teacher alone to both."""
        method = METHODS["alm"]
        signals = lab.signals(method, TWO, lab.documents)
        rising = {"same": 1.0, "other": Schedule(start=0.0, end=3.0, steps=1)}
        trainer = lab.trainer(lab.terms(method, rising))
        first, second = (lab.step(trainer, signals) for _ in range(2))
        assert (first.weights, second.weights) == ((0.5, 1.0), (0.5, 4.0))
        routed = [replace(document, teachers=("same",)) for document in lab.documents]
        alone = lab.trainer(lab.terms(method, TWO))
        expected = lab.step(alone, lab.signals(method, TWO, routed), routed)
        assert first.losses[1] == pytest.approx(expected.losses[1], rel=1e-6)

    def test_a_loss_of_weight_zero_is_still_measured(self, lab):
        """As without an ensemble: dynamic weights average what is measured."""
        method = METHODS["alm"]
        signals = lab.signals(method, TWO, lab.documents)
        rising = {"same": Schedule(start=0.0, end=1.0, steps=2), "other": Schedule(0.0, 1.0, 2)}
        found = lab.step(lab.trainer(lab.terms(method, rising)), signals)
        equal = lab.trainer(lab.terms(method, {"same": 1.0, "other": 1.0}))
        assert found.weights == (0.5, 0.0)
        assert found.losses[1] == pytest.approx(lab.step(equal, signals).losses[1], rel=1e-6)
        assert found.losses[1] > 0

    @every_space
    def test_student_gets_closer(self, lab, space):
        method = METHODS[space]
        signals = lab.signals(method, TWO, lab.documents)
        trainer = lab.trainer(lab.terms(method, TWO))
        losses = [lab.step(trainer, signals).losses[1] for _ in range(4)]
        assert losses[-1] < losses[0]
        assert min(losses) >= 0

    @every_space
    def test_gates_pass(self, lab, space):
        method = METHODS[space]
        trainer = lab.trainer(lab.terms(method, TWO))
        signals = lab.signals(method, TWO, lab.documents)
        gates = Gates(likelihood=False, min_coverage=0.1)
        verdicts = trainer.check(lab.documents, signals, gates)
        assert [v.problem for v in verdicts if not v.passed] == []
        terms = {verdict.term for verdict in verdicts}
        assert f"ensemble/{space}" in terms
        if space != "bld":
            assert {"same", "other"} <= terms


class TestExperiment:
    def test_the_shipped_arm(self):
        trials = {t.arm: t.config for t in plan(load_experiment("experiments/two_teachers.yaml"))}
        arm = trials["alm+alm-targets"]
        assert arm.mixture.ensemble == "arithmetic"
        assert trials["kl+alm"].mixture.ensemble is None
        assert is_part(trials["alm"], arm)  # with other weights
        assert not is_part(trials["kl"], arm)
        assert not is_part(trials["p_kl"], arm)
