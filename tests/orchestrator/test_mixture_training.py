"""Every scheme of weights gives one gradient, however a batch is split, ordered or resumed."""

import threading
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import pytest
import torch

from losses.base import Pair
from losses.document import Document
from losses.methods.alm import Alm
from losses.methods.kl import Kl
from losses.mixture import (
    Absent,
    Confidence,
    Constant,
    Dynamic,
    GradMag,
    Schedule,
    Scheme,
    Select,
    TeacherCe,
    TeacherEntropy,
    TeacherScore,
)
from orchestrator.metrics import step_metrics
from orchestrator.student.gradients import shares_of
from orchestrator.student.layers import layer_list
from orchestrator.student.mixing import Mixing
from orchestrator.student.module import DistillModule, Example, Term
from orchestrator.student.objective import Objective
from orchestrator.student.state import load_weights_into, restore
from orchestrator.student.trainer import StepReport, StudentTrainer
from teachers.backends.transformers import LanguageModel
from teachers.document_signals import DocumentSignals
from teachers.evaluation import score
from teachers.teacher import Teacher

METHODS = {"same": (Kl(), Alm(temperature=5.0)), "other": (Alm(temperature=5.0),)}
WEIGHTS = (0.5, 1.0, 0.3, 2.0)
ROUTES = [("same",), ("other",), None, (), ("other", "same"), ("same",), ("other",), ("same",)]
ORDER = [5, 0, 7, 3, 1, 6, 4, 2]


@dataclass(frozen=True)
class Case:
    """A scheme, and whether documents are routed and one teacher's weight is scheduled."""

    scheme: Scheme = field(default_factory=Constant)
    routed: bool = False
    scheduled: bool = False
    normalize: str = "bytes"

    @property
    def objective(self) -> Objective:
        weights = list(WEIGHTS)
        if self.scheduled:
            weights[3] = Schedule(start=2.0, end=0.5, steps=3)
        return Objective(tuple(weights), self.normalize, self.scheme)


CASES = {
    "constant": Case(),
    "constant-units": Case(normalize="units"),
    "scheduled": Case(scheduled=True),
    "routed": Case(routed=True),
    "routed-units": Case(routed=True, normalize="units"),
    "confidence": Case(Confidence(temperature=0.5)),
    "confidence-routed": Case(Confidence(temperature=0.5), routed=True, scheduled=True),
    "teacher_ce": Case(TeacherCe()),
    "teacher_entropy": Case(TeacherEntropy()),
    "select": Case(Select()),
    "select-units": Case(Select(), normalize="units"),
    "dynamic": Case(Dynamic()),
    "dynamic-routed": Case(Dynamic(decay=0.5), routed=True, scheduled=True),
    "gradmag": Case(GradMag()),
    "gradmag-routed-units": Case(GradMag(decay=0.5), routed=True, normalize="units"),
}


SLOW, NIGHTLY = pytest.mark.slow, pytest.mark.nightly
FAST = ("scheduled", "routed-units", "confidence-routed", "select", "dynamic-routed", "gradmag")
FAST_FIRST = [name if name in FAST else pytest.param(name, marks=SLOW) for name in CASES]
ALIKE = (
    "constant-units",
    "routed",
    "confidence",
    "select-units",
    "dynamic",
    "gradmag-routed-units",
)
"""Every scheme is there without these."""
SCHEMES_FIRST = [pytest.param(name, marks=NIGHTLY) if name in ALIKE else name for name in CASES]


@dataclass(frozen=True)
class Lab:
    """A student, two teachers of three methods, and eight documents."""

    build_student: Callable[[], LanguageModel]
    build_engine: Callable[[DistillModule], Any]
    teachers: dict[str, LanguageModel]
    documents: list[Document]
    answers: dict[tuple[str | None, bool], list[DocumentSignals]] = field(default_factory=dict)

    def documents_of(self, case: Case) -> list[Document]:
        if not case.routed:
            return self.documents
        return [replace(d, teachers=t) for d, t in zip(self.documents, ROUTES, strict=True)]

    def signals_of(self, case: Case) -> list[DocumentSignals]:
        key = (case.scheme.asks, case.routed)
        if key not in self.answers:
            rows = [
                Teacher(model, METHODS[name], asks=key[0]).signals(self.documents_of(case))
                for name, model in self.teachers.items()
            ]
            self.answers[key] = [sum(parts, ()) for parts in zip(*rows, strict=True)]
        return self.answers[key]

    def module(self) -> DistillModule:
        student = self.build_student()
        student = replace(student, tokenizer=deepcopy(student.tokenizer))  # ranks are threads
        terms = []
        for name, model in self.teachers.items():
            head = Teacher(model, []).head_weights().head(torch.device("cpu"))
            pair = Pair(student.tokenizer.vocabulary, model.tokenizer.vocabulary)
            for method in METHODS[name]:
                kind = type(method).__name__.lower()
                terms.append(Term(name, kind, method, 1.0, pair).with_head(head))
        module = DistillModule(student, terms)
        module.model.train()
        return module

    def trainer(self, case: Case, micro_batch: int = 8, engine: Any = None) -> StudentTrainer:
        engine = engine or self.build_engine(self.module())
        return StudentTrainer(engine, case.objective, micro_batch, 512)

    @property
    def num_scored_bytes(self) -> int:
        return sum(document.num_scored_bytes for document in self.documents)

    def step(
        self, trainer: StudentTrainer, case: Case, order: Sequence[int] = range(8), **more: Any
    ) -> StepReport:
        documents, signals = self.documents_of(case), self.signals_of(case)
        chosen = [documents[i] for i in order], [signals[i] for i in order]
        return trainer.step(*chosen, self.num_scored_bytes, **more)


@pytest.fixture(scope="module")
def lab(language_model, mixed_documents, distillation) -> Lab:
    def named(model: LanguageModel, name: str) -> LanguageModel:
        tokenizer = copy(model.tokenizer)
        tokenizer.name = name
        return replace(model, tokenizer=tokenizer)

    plain = distillation().trainer(learning_rate=1e-4).engine
    more = [replace(mixed_documents[i], name=f"again{i}") for i in (0, 3)]
    return Lab(
        build_student=lambda: language_model("llama", seed=0),
        build_engine=lambda module: type(plain)(module, plain.options),
        teachers={
            "same": named(language_model("llama", "bytelevel", seed=1), "same"),
            "other": named(language_model("gemma2", "sentencepiece", seed=2), "other"),
        },
        documents=[*mixed_documents, *more],
    )


class Ranks:
    """Sums over ranks that are threads."""

    def __init__(self, num_ranks: int) -> None:
        self.values: list[torch.Tensor] = [torch.zeros(())] * num_ranks
        self.barrier = threading.Barrier(num_ranks, timeout=60)

    def all_reduce(self, rank: int, values: torch.Tensor) -> torch.Tensor:
        self.values[rank] = values.clone()
        self.barrier.wait()
        total = torch.stack(self.values).sum(0)
        self.barrier.wait()
        return total


def with_ranks(engine: Any, ranks: Ranks, rank: int) -> Any:
    """The plain engine as one of several: its sums and gradients are those of all ranks."""
    engine.all_reduce = partial(ranks.all_reduce, rank)
    alone = engine.step

    def step():
        for parameter in engine.module.parameters():
            if parameter.grad is not None:
                parameter.grad = ranks.all_reduce(rank, parameter.grad)
        return alone()

    engine.step = step
    return engine


def train(lab: Lab, case: Case, num_ranks: int, accumulation: int) -> list[tuple[StepReport, dict]]:
    """Two steps; each with its report and its gradients."""
    ranks, size = Ranks(num_ranks), 8 // num_ranks // accumulation
    found: dict[int, list] = {rank: [] for rank in range(num_ranks)}
    lab.signals_of(case)

    engines = [with_ranks(lab.build_engine(lab.module()), ranks, r) for r in range(num_ranks)]

    def run(rank: int) -> None:
        engine = engines[rank]
        trainer = lab.trainer(case, size, engine)
        for order in (list(range(8)), ORDER):
            report = lab.step(trainer, case, order[rank::num_ranks], measure_shares=True)
            found[rank].append((report, dict(engine.gradients)))
        assert max(engine.micro_batches) == size

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(steps) == 2 for steps in found.values())
    return found[0]


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values())
    assert largest > 1e-3
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-4 * largest, rtol=0, msg=name)


@pytest.fixture(scope="module")
def undivided(lab) -> Callable[[str], list[tuple[StepReport, dict]]]:
    """Two steps on one rank in one micro-batch."""
    return cache(lambda name: train(lab, CASES[name], 1, 1))


@pytest.mark.parametrize(
    ("num_ranks", "accumulation"),
    [
        (2, 2),
        *(pytest.param(*cell, marks=NIGHTLY) for cell in [(1, 2), (1, 4), (2, 1), (2, 4)]),
    ],
)
@pytest.mark.parametrize("name", SCHEMES_FIRST)
def test_ranks_and_accumulation_do_not_show(lab, undivided, name, num_ranks, accumulation):
    found = train(lab, CASES[name], num_ranks, accumulation)
    for (report, gradients), (whole, reference) in zip(found, undivided(name), strict=True):
        same(gradients, reference)
        assert report.weights == pytest.approx(whole.weights, rel=2e-5)
        assert report.losses == pytest.approx(whole.losses, rel=2e-5)
        assert report.loss == pytest.approx(whole.loss, rel=2e-5)
        assert report.shares == pytest.approx(whole.shares, abs=2e-5)


@pytest.mark.parametrize("name", FAST_FIRST)
def test_order_and_padding_do_not_show(lab, undivided, name):
    case = CASES[name]
    trainer = lab.trainer(case, micro_batch=1)
    found, (expected, gradients) = lab.step(trainer, case, ORDER), undivided(name)[0]
    same(trainer.engine.gradients, gradients)
    assert found.weights == pytest.approx(expected.weights, rel=2e-5)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("constant")])
def test_every_scheme_changes_the_gradient(lab, undivided, name):
    plain = "constant-units" if name.endswith("units") else "constant"
    place = 1 if name == "scheduled" else 0  # a schedule starts at the written weight
    reference, gradients = undivided(plain)[place][1], undivided(name)[place][1]
    largest = max(float(g.abs().max()) for g in reference.values())
    gaps = [float((gradients[n] - g).abs().max()) for n, g in reference.items()]
    assert max(gaps) > 1e-3 * largest


@pytest.mark.parametrize("name", CASES)
def test_loss_is_the_sum_of_weights_times_losses(undivided, name):
    for report, _ in undivided(name):
        terms = [w * x for w, x in zip(report.weights, report.losses, strict=True)]
        assert report.loss == pytest.approx(sum(terms), rel=1e-9)


def losses_by_hand(lab: Lab, case: Case, module: DistillModule) -> list[list[torch.Tensor]]:
    """Each document's total of each term, one document at a time."""
    found = []
    tokens = module.student.encode(lab.documents)
    rows = zip(lab.documents_of(case), tokens, lab.signals_of(case), strict=True)
    for document, view, row in rows:
        signals = [entry for entry in row if not isinstance(entry, TeacherScore)]
        [hidden] = module.student.hidden_states([view])
        prediction = module.student.prediction(document, view, hidden)
        found.append([loss.total for loss in module.losses(prediction, signals)])
    return found


def gradients_by_hand(lab: Lab, case: Case, weights: list[list[float]]) -> dict[str, torch.Tensor]:
    """Of the sum over documents and terms of weight times loss, per scored byte."""
    module = lab.module()
    rows = zip(weights, losses_by_hand(lab, case, module), strict=True)
    total = sum(w * x for ws, xs in rows for w, x in zip(ws, xs, strict=True))
    (total / lab.num_scored_bytes).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


class TestByHand:
    @pytest.mark.parametrize("name", ["confidence", "teacher_ce", "select", "confidence-routed"])
    def test_shares_of_each_document(self, lab, name):
        case = CASES[name]
        scores = {n: score(model, lab.documents, 512) for n, model in lab.teachers.items()}
        weights = []
        for index, document in enumerate(lab.documents_of(case)):
            factor = {"same": 0.0, "other": 0.0}
            present = [n for n in factor if document.goes_to(n)]
            given = [{"same": 1.3, "other": 2.0}[n] for n in present]
            own = [scores[n][index] for n in present]
            rows = [TeacherScore(s.nats, s.num_bytes, s.num_tokens) for s in own]
            factor |= dict(zip(present, case.scheme.shares(given, rows), strict=True))
            names = ("same", "same", "other")
            factors = (1.0, *(factor[n] for n in names))
            weights.append([w * f for w, f in zip(WEIGHTS, factors, strict=True)])
        assert len({tuple(row) for row in weights}) > 1
        trainer = lab.trainer(case, micro_batch=4)
        report = lab.step(trainer, case)
        same(trainer.engine.gradients, gradients_by_hand(lab, case, weights))
        sizes = [document.num_scored_bytes for document in lab.documents]
        mean = [sum(n * row[k] for n, row in zip(sizes, weights, strict=True)) for k in range(4)]
        assert report.weights == pytest.approx([m / sum(sizes) for m in mean])

    def test_entropy_of_the_teachers_predictions(self, lab):
        case = CASES["teacher_entropy"]
        for name, model in lab.teachers.items():
            [row] = Teacher(model, [], asks="entropy").signals(lab.documents[:1])
            [prediction] = model.predictions(lab.documents[:1])
            positions = prediction.scored_positions - 1
            table = torch.log_softmax(model.head.logits(prediction.hidden[positions]), -1)
            expected = -(table.exp() * table).sum().item()
            assert row[0].nats == pytest.approx(expected, rel=1e-5), name
            assert row[0].num_scored_tokens == len(positions)
        assert case.scheme.asks == "entropy"

    def test_dynamic(self, lab):
        """Each step reads the averages of the steps before it, the first one a probe of itself."""
        case = Case(Dynamic(decay=0.25))
        trainer = lab.trainer(case, micro_batch=2)
        module = lab.module()
        with torch.no_grad():
            sums = torch.tensor(losses_by_hand(lab, case, module)).sum(0) / lab.num_scored_bytes
        ce, *losses = sums.tolist()
        mean = sum(w * k for w, k in zip(WEIGHTS[1:], losses, strict=True)) / sum(WEIGHTS[1:])
        first = lab.step(trainer, case)
        expected = (WEIGHTS[0], *(w * ce / mean for w in WEIGHTS[1:]))
        assert first.weights == pytest.approx(expected, rel=1e-4)
        same(trainer.engine.gradients, gradients_by_hand(lab, case, [list(expected)] * 8))
        assert trainer.mixing.average == pytest.approx(first.losses, rel=1e-5)
        before = trainer.mixing.average
        second = lab.step(trainer, case)
        assert second.weights == case.scheme.weights(WEIGHTS, before)
        rows = zip(before, second.losses, strict=True)
        moved = [0.25 * old + 0.75 * new for old, new in rows]
        assert trainer.mixing.average == pytest.approx(moved)

    def test_gradmag(self, lab):
        case = CASES["gradmag"]
        module = lab.module()
        rows = losses_by_hand(lab, case, module)
        parameters = list(layer_list(module.model)[-1].parameters())
        norms = []
        for k in range(4):
            total = sum(row[k] for row in rows) / lab.num_scored_bytes
            parts = torch.autograd.grad(total, parameters, retain_graph=True)
            norms.append(float(torch.cat([g.flatten() for g in parts]).norm()))
        inverse = [w / n for w, n in zip(WEIGHTS, norms, strict=True)]
        expected = [sum(WEIGHTS) * v / sum(inverse) for v in inverse]
        trainer = lab.trainer(case, micro_batch=2)
        report = lab.step(trainer, case, measure_shares=True)
        assert report.weights == pytest.approx(expected, rel=1e-4)
        assert trainer.mixing.average == pytest.approx(norms, rel=1e-4)
        same(trainer.engine.gradients, gradients_by_hand(lab, case, [expected] * 8))
        assert report.shares == pytest.approx(shares_of(WEIGHTS), rel=1e-4)

    def test_schedule(self, lab):
        case = CASES["scheduled"]
        trainer = lab.trainer(case)
        found = [lab.step(trainer, case).weights for _ in range(5)]
        assert [row[3] for row in found] == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.5])
        assert {row[:3] for row in found} == {WEIGHTS[:3]}

    def test_routed_documents_teach_where_they_go(self, lab):
        case = CASES["routed"]
        weights = []
        for document in lab.documents_of(case):
            on = [document.goes_to(n) for n in ("same", "same", "other")]
            weights.append([w * g for w, g in zip(WEIGHTS, (1, *on), strict=True)])
        trainer = lab.trainer(case)
        unrouted = Case()
        lab.step(trainer, case)
        same(trainer.engine.gradients, gradients_by_hand(lab, unrouted, weights))

    def test_by_units_a_routed_loss_is_a_mean_already(self, lab):
        """Over the documents that its teacher reads; by bytes it is one over all documents."""
        found = {
            name: lab.step(lab.trainer(CASES[name]), CASES[name]).weights
            for name in ("routed", "routed-units")
        }
        assert found["routed-units"] == pytest.approx(WEIGHTS)
        assert all(a < b for a, b in zip(found["routed"][1:], WEIGHTS[1:], strict=True))


class TestProbe:
    @pytest.mark.parametrize("scheme", [Dynamic(), GradMag()], ids=repr)
    def test_nothing_moves_and_it_is_made_once(self, lab, scheme, monkeypatch):
        case = Case(scheme)
        trainer = lab.trainer(case, micro_batch=4)
        passes, update = [], trainer.engine.step
        forward = DistillModule.forward

        def spy(*arguments):
            passes.append("forward")
            return forward(*arguments)

        monkeypatch.setattr(DistillModule, "forward", spy)
        trainer.engine.step = lambda: passes.append("step") or update()
        lab.step(trainer, case)
        lab.step(trainer, case)
        assert passes == ["forward"] * 4 + ["step"] + ["forward"] * 2 + ["step"]

    def test_a_weight_that_starts_at_zero_is_measured_all_the_same(self, lab):
        weights = (0.5, 1.0, 0.3, Schedule(start=0.0, end=2.0, steps=2))
        case = Case(GradMag())
        trainer = lab.trainer(case)
        trainer.objective = replace(trainer.objective, weights=weights)
        assert lab.step(trainer, case).weights[3] == 0
        assert trainer.mixing.average[3] > 0
        assert lab.step(trainer, case).weights[3] > 0

    @pytest.mark.parametrize("name", ["constant", "scheduled", "confidence", "select"])
    def test_none_where_nothing_is_observed(self, lab, name):
        trainer = lab.trainer(CASES[name])
        lab.step(trainer, CASES[name])
        assert len(trainer.engine.micro_batches) == 1
        assert trainer.mixing == Mixing(step=1)


class TestResume:
    @pytest.mark.parametrize("name", ["dynamic", "gradmag", "scheduled", "confidence-routed"])
    def test_goes_on_bit_for_bit(self, lab, name, tmp_path):
        case = CASES[name]
        whole = lab.trainer(case, micro_batch=4)
        for _ in range(2):
            lab.step(whole, case)
        whole.save_state(2, tmp_path, rank=0)
        expected = lab.step(whole, case, ORDER)
        module = lab.module()
        load_weights_into(module, tmp_path)
        resumed = lab.trainer(case, 4, lab.build_engine(module))
        restore(resumed.engine, tmp_path)
        resumed.mixing = Mixing.load(tmp_path)
        found = lab.step(resumed, case, ORDER)
        assert found.weights == expected.weights
        assert found.losses == expected.losses
        for key, gradient in whole.engine.gradients.items():
            assert torch.equal(resumed.engine.gradients[key], gradient)
        assert resumed.mixing == whole.mixing

    def test_forgetting_the_state_shows(self, lab, tmp_path):
        case = CASES["gradmag"]
        trainer = lab.trainer(case)
        lab.step(trainer, case)
        before = trainer.mixing.weights(case.objective)
        lab.step(trainer, case)
        assert trainer.mixing.weights(case.objective) != before

    @pytest.mark.parametrize("name", ["constant", "routed", "confidence", "select"])
    def test_no_state_without_need(self, lab, name, tmp_path):
        lab.trainer(CASES[name]).save_state(0, tmp_path, rank=0)
        assert not (tmp_path / "mixture.json").exists()

    def test_only_rank_0_writes(self, lab, tmp_path):
        lab.trainer(CASES["dynamic"]).save_state(0, tmp_path, rank=1)
        assert not (tmp_path / "mixture.json").exists()

    def test_missing_state_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"mixture\.json is missing, but the weights"):
            Mixing.load(tmp_path)


class TestSignals:
    def test_a_teacher_reads_only_its_own_documents(self, lab, monkeypatch):
        case = replace(CASES["routed"], scheme=Select())
        model = lab.teachers["other"]
        read: list[str] = []
        predictions = LanguageModel.predictions

        def spy(self, documents, **options):
            read.extend(document.name for document in documents)
            return predictions(self, documents, **options)

        monkeypatch.setattr(LanguageModel, "predictions", spy)
        documents = lab.documents_of(case)
        rows = Teacher(model, METHODS["other"], asks="ce").signals(documents)
        own = [document.name for document in documents if document.goes_to("other")]
        assert sorted(read) == sorted(own)
        for document, (signal, sent) in zip(documents, rows, strict=True):
            assert isinstance(signal, Absent) == (document.name not in own)
            assert (sent.num_scored_tokens > 0) == (document.name in own)

    def test_a_teacher_without_any_document_is_not_asked(self, lab):
        documents = [replace(document, teachers=("same",)) for document in lab.documents]
        rows = Teacher(lab.teachers["other"], METHODS["other"]).signals(documents)
        assert rows == [(Absent(),)] * 8

    def test_nothing_more_is_sent_unless_it_is_asked_for(self, lab):
        assert [len(row) for row in lab.signals_of(Case())] == [3] * 8
        assert [len(row) for row in lab.signals_of(Case(Select()))] == [5] * 8

    def test_missing_scores_are_refused(self, lab):
        case = CASES["select"]
        trainer = lab.trainer(case)
        rows = lab.signals_of(Case())
        with pytest.raises(ValueError, match=r"0 scores for the teachers same, other; build each"):
            trainer.step(lab.documents, rows, lab.num_scored_bytes)

    def test_a_loss_that_is_not_selected_is_not_computed(self, lab, monkeypatch):
        case = CASES["select"]
        trainer = lab.trainer(case)
        calls = []
        loss = Alm.loss

        def spy(*arguments):
            calls.append(arguments)
            return loss(*arguments)

        monkeypatch.setattr(Alm, "loss", spy)
        lab.step(trainer, case)
        assert len(calls) == 8  # of one teacher or the other, never of both

    def test_modules_that_zero_3_gathers_must_see_every_document(self, lab):
        module = lab.module()
        [view] = module.student.encode(lab.documents[:1])
        example = Example(lab.documents[0], view, (Absent(),) * 3)
        assert module([example])[1:].tolist() == [0, 0, 0]
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.ds_id = 0
        module._with_borrowed[1]["own"] = torch.nn.ParameterList([parameter])
        with pytest.raises(ValueError, match="same/alm trains parameters of its own, which under"):
            module([example])


def test_weights_are_in_the_metrics(lab):
    case = CASES["gradmag"]
    report = lab.step(lab.trainer(case), case)
    names = ("ce", "same/kl", "same/alm", "other/alm")
    values = step_metrics(report, names, {}, step_time=1.0)
    assert values["ce_weight"] == report.weights[0]
    for name, weight in zip(names[1:], report.weights[1:], strict=True):
        assert values[f"teacher/{name}/weight"] == weight


def test_constant_weights_are_reported_as_written(lab):
    case = CASES["constant"]
    assert lab.step(lab.trainer(case, micro_batch=2), case).weights == WEIGHTS
