"""The gradient is that of the objective as one writes it down, however the batch is split."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from losses.document import Document
from losses.methods.alm import Alm
from losses.methods.kl import Kl
from losses.signals import HiddenStates
from orchestrator.errors import TrainingDiverged
from orchestrator.metrics import MetricsWriter, gradient_shares, step_metrics
from orchestrator.student.engine import StudentEngine, Update
from orchestrator.student.layers import layer_list
from orchestrator.student.trainer import StepReport, StudentTrainer
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import score

WEIGHTS = (0.5, 1.0, 2.0)
TEMPERATURE = 5.0


def run(lab, trainer: StudentTrainer, order: list[int] | None = None, **more) -> StepReport:
    """One step on all documents, in an order."""
    order = order or list(range(len(lab.documents)))
    return trainer.step(
        [lab.documents[i] for i in order],
        [lab.signals[i] for i in order],
        lab.num_scored_bytes,
        **more,
    )


def same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values())
    assert largest > 1e-3  # else equality says nothing
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=0)


class Read:
    """One model on one document, from its own logits: log-probabilities, token ends, scored."""

    def __init__(self, model: LanguageModel, document: Document) -> None:
        text = document.content.decode()
        own = model.tokenizer.fast(text, add_special_tokens=False)["input_ids"]
        self.ids = [model.tokenizer.start_id, *own]
        logits = model.model(input_ids=torch.tensor([self.ids])).logits[0]
        self.table = torch.log_softmax(logits, -1)
        ends, scored = [0], [False]
        for token in own:
            start = ends[-1]
            ends.append(start + len(model.tokenizer.vocabulary.token_bytes[token] or b""))
            scored.append(bool(document.scored[start : ends[-1]].all()))
        self.ends, self.scored = ends, scored

    def own(self, token: int) -> torch.Tensor:
        return self.table[token - 1, self.ids[token]]

    def chunk(self, start: int, end: int) -> torch.Tensor | None:
        """Log-probability of these bytes, None if any of their tokens is not scored."""
        inside = [i for i, e in enumerate(self.ends) if i > 0 and start < e <= end]
        if not all(self.scored[i] for i in inside):
            return None
        return torch.stack([self.own(i) for i in inside]).sum()


def by_hand(lab, student: LanguageModel, normalize: str) -> list[torch.Tensor]:
    """Cross-entropy, KL and plain ALM of the whole batch, normalised, not weighted."""
    totals = [torch.zeros(()) for _ in range(3)]
    units = [0, 0, 0]
    for document in lab.documents:
        ours = Read(student, document)
        with torch.no_grad():
            same, other = (Read(lab.teachers[n], document) for n in ("same", "other"))
        for token in [i for i, scored in enumerate(ours.scored) if scored]:
            p, q = same.table[token - 1], ours.table[token - 1]
            totals[0] = totals[0] - ours.own(token)
            totals[1] = totals[1] + (p.exp() * (p - q)).sum()
        units[0] = units[1] = units[0] + sum(ours.scored)
        for start, end in pairwise(sorted(set(ours.ends) & set(other.ends))):
            mine, theirs = ours.chunk(start, end), other.chunk(start, end)
            if mine is not None and theirs is not None:
                totals[2] = totals[2] + coins(theirs.double(), mine.double())
                units[2] += 1
    counts = units if normalize == "units" else [lab.num_scored_bytes] * 3
    return [total / count for total, count in zip(totals, counts, strict=True)]


def coins(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL of two coins whose heads have the tempered probabilities."""
    p, q = (teacher / TEMPERATURE).exp(), (student / TEMPERATURE).exp()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


@pytest.fixture(scope="module")
def lab(distillation):
    """Kl and the published alm."""
    return distillation()


@pytest.fixture(scope="module")
def plain(distillation):
    """Alm without joining and borders, as it is written by hand here."""
    alm = Alm(temperature=TEMPERATURE, debias=False, merge_threshold=None)
    return distillation({"same": Kl(), "other": alm})


@pytest.mark.parametrize("normalize", ["bytes", "units"])
class TestGradient:
    def test_any_split_and_order(self, lab, normalize):
        whole = lab.trainer(WEIGHTS, normalize, micro_batch=6)
        expected = run(lab, whole)
        for micro_batch, order in [(1, None), (2, [5, 0, 3, 1, 4, 2]), (4, None), (3, [*range(6)])]:
            trainer = lab.trainer(WEIGHTS, normalize, micro_batch)
            report = run(lab, trainer, order)
            assert max(trainer.engine.micro_batches) == micro_batch
            same_gradients(trainer.engine.gradients, whole.engine.gradients)
            assert report.losses == pytest.approx(expected.losses, rel=1e-5)
            assert report.num_tokens == expected.num_tokens

    def test_equals_the_objective_by_hand(self, plain, normalize):
        trainer = plain.trainer(WEIGHTS, normalize, micro_batch=4)
        report = run(plain, trainer)
        student = plain.build_student()
        losses = by_hand(plain, student, normalize)
        assert report.losses == pytest.approx([x.item() for x in losses], rel=1e-4)
        loss = sum(w * x for w, x in zip(WEIGHTS, losses, strict=True))
        assert report.loss == pytest.approx(loss.item(), rel=1e-4)
        loss.backward()
        gradients = {f"model.{n}": p.grad for n, p in student.model.named_parameters()}
        same_gradients(trainer.engine.gradients, gradients)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        assert report.update.grad_norm == pytest.approx(norm, rel=1e-4)

    def test_shares_by_hand(self, plain, normalize):
        report = run(plain, plain.trainer(WEIGHTS, normalize), measure_shares=True)
        student = plain.build_student()
        parameters = list(layer_list(student.model)[-1].parameters())
        losses = by_hand(plain, student, normalize)
        norms = []
        for weight, loss in zip(WEIGHTS, losses, strict=True):
            gradients = torch.autograd.grad(weight * loss, parameters, retain_graph=True)
            norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        assert report.shares == pytest.approx([n / sum(norms) for n in norms], rel=1e-3)


class TestShares:
    def test_sum_and_split(self, lab):
        whole = run(lab, lab.trainer(WEIGHTS, micro_batch=6), measure_shares=True).shares
        assert sum(whole) == pytest.approx(1)
        assert min(whole) > 0.01
        for micro_batch in (1, 4):
            trainer = lab.trainer(WEIGHTS, micro_batch=micro_batch)
            assert run(lab, trainer, measure_shares=True).shares == pytest.approx(whole, abs=1e-5)

    def test_weight_zero_has_no_share(self, lab):
        report = run(lab, lab.trainer((0.0, 1.0, 1.0)), measure_shares=True)
        assert report.shares[0] == 0
        assert sum(report.shares) == pytest.approx(1)
        assert report.losses[0] > 0  # still reported

    def test_not_measured_unless_asked(self, lab):
        assert run(lab, lab.trainer()).shares is None

    def test_measuring_does_not_change_the_update(self, lab):
        quiet, measured = lab.trainer(micro_batch=4), lab.trainer(micro_batch=4)
        run(lab, quiet)
        run(lab, measured, measure_shares=True)
        for name, weight in quiet.engine.state_dict().items():
            assert torch.equal(measured.engine.state_dict()[name], weight)

    def test_nothing_moves(self, distillation):
        report = run(lab := distillation(), lab.trainer((0.0, 0.0, 0.0)), measure_shares=True)
        assert report.shares == (0.0, 0.0, 0.0)


class TestStep:
    def test_loss_falls(self, lab):
        trainer = lab.trainer(learning_rate=3e-3)
        losses = [run(lab, trainer).loss for _ in range(6)]
        assert losses == sorted(losses, reverse=True)

    def test_student_like_its_teacher_has_nothing_to_learn(self, distillation):
        lab = distillation({"same": Kl()}, student={"seed": 1})
        trainer = lab.trainer((0.0, 1.0))
        report = run(lab, trainer)
        assert abs(report.losses[1]) < 1e-6
        assert max(float(g.abs().max()) for g in trainer.engine.gradients.values()) < 1e-5

    def test_no_teachers(self, distillation):
        lab = replace(distillation(), teachers={}, signals=[()] * 6)
        report = run(lab, lab.trainer((1.0,)), measure_shares=True)
        assert report.loss == report.losses[0] > 0
        assert report.shares == (1.0,)

    def test_times(self, lab):
        report = run(lab, lab.trainer())
        assert set(report.seconds) == {"tokenize", "forward", "backward", "optimizer"}
        assert all(seconds > 0 for seconds in report.seconds.values())

    def test_evaluation_in_between_changes_nothing(self, lab):
        trainer, other = lab.trainer(), lab.trainer()
        found = trainer.evaluate(lab.documents)
        assert trainer.engine.module.model.training
        expected = score(lab.build_student(), lab.documents, 512)
        assert [s.nats for s in found] == pytest.approx([s.nats for s in expected])
        run(lab, trainer)
        run(lab, other)
        same_gradients(trainer.engine.gradients, other.engine.gradients)


class TestRefusals:
    def test_loss_that_is_not_finite_names_its_documents(self, lab):
        trainer = lab.trainer(micro_batch=1)
        tokens = trainer.engine.module.student.tokenizer.encode(lab.documents)
        ids = [set(view.ids.tolist()) for view in tokens]
        poison = ids[1].difference(*ids[:1], *ids[2:])
        embeddings = trainer.engine.module.model.get_input_embeddings().weight
        embeddings.data[sorted(poison)] = torch.nan
        with pytest.raises(TrainingDiverged, match=r"ce is nan.* on documents d3;"):
            run(lab, trainer)

    def test_all_documents_of_the_micro_batch_are_named(self, lab):
        trainer = lab.trainer(micro_batch=6)
        trainer.engine.module.model.lm_head.weight.data[:] = torch.inf
        with pytest.raises(TrainingDiverged) as caught:
            run(lab, trainer)
        assert all(document.name in str(caught.value) for document in lab.documents)

    def test_gradient_that_is_not_finite(self, lab, monkeypatch):
        trainer = lab.trainer()
        monkeypatch.setattr(trainer.engine, "step", lambda: Update(math.inf, 1e-3))
        with pytest.raises(TrainingDiverged, match="gradient's norm is inf"):
            run(lab, trainer)

    def test_signal_of_other_tokens(self, lab):
        swapped = replace(lab, signals=[lab.signals[1], lab.signals[0], *lab.signals[2:]])
        with pytest.raises(ValueError, match="method kl: the teacher read"):
            run(swapped, lab.trainer())

    def test_signal_of_another_scored_span(self, lab):
        states: HiddenStates = lab.signals[4][0]
        fewer = replace(states, positions=states.positions[1:], hidden=states.hidden[1:])
        signals = [*lab.signals[:4], (fewer, lab.signals[4][1]), lab.signals[5]]
        with pytest.raises(ValueError, match=r"sent 5 rows.* scores 6"):
            run(replace(lab, signals=signals), lab.trainer())

    def test_signals_in_another_order(self, lab):
        turned = replace(lab, signals=[tuple(reversed(row)) for row in lab.signals])
        with pytest.raises(ValueError, match="got a TokenLikelihoods signal but reads Hidden"):
            run(turned, lab.trainer())

    def test_missing_signal(self, lab):
        with pytest.raises(ValueError, match="zip"):
            run(replace(lab, signals=[row[:1] for row in lab.signals]), lab.trainer())


def test_the_plain_engine_keeps_the_protocol(lab):
    assert isinstance(lab.trainer().engine, StudentEngine)


def test_metrics_of_a_step(lab, tmp_path):
    report = run(lab, lab.trainer(WEIGHTS), measure_shares=True)
    names = ("ce", "same/kl", "other/alm")
    values = step_metrics(report, names, {"same": 0.5, "other": 0.25}, step_time=2.0)
    assert values["loss"] == report.loss
    assert values["timing/teacher_wait"] == 0.75
    assert values["perf/tokens_per_s"] == report.num_tokens / 2
    assert values["teacher/other/alm/kd_loss"] == report.losses[2]
    shares = gradient_shares(report, names)
    assert shares == dict(zip(("ce", "same", "other"), report.shares, strict=True))
    assert values["teacher/same/gradient_share"] == shares["same"]
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(3, values)
    assert '"step": 3, "loss"' in (tmp_path / "metrics.jsonl").read_text()
    assert list((tmp_path / "tb").iterdir())


def test_two_methods_of_a_teacher_share_its_part():
    report = StepReport(1.0, (1.0, 1.0, 1.0), (0.2, 0.3, 0.5), Update(1.0, 1.0), 1)
    assert gradient_shares(report, ("ce", "t/kl", "t/alm")) == {"ce": 0.2, "t": 0.8}
