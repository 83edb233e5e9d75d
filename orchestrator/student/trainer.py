"""One rank of the student: examples in, updates out. Knows nothing of Ray."""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from losses.document import Document
from losses.mixture import Absent
from losses.mixture.scheme import Weights
from orchestrator.gates.student import check
from orchestrator.gates.verdict import Gates, Verdict
from orchestrator.student.divergence import check_gradient, check_loss
from orchestrator.student.engine import StudentEngine, Update
from orchestrator.student.examples import ahead, combined, example_of
from orchestrator.student.gradients import LastLayer, shares_of
from orchestrator.student.mixing import Mixing, factors_of, share_out
from orchestrator.student.module import Example
from orchestrator.student.objective import Objective
from orchestrator.student.shared_teacher import SharedTeacher
from orchestrator.student.state import save_state
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.evaluation import score


@dataclass(frozen=True)
class StepReport:
    """One step, summed over all ranks; ``losses`` are normalised but not weighted.

    ``weights`` are the terms' weights, averaged over the scored bytes of the global batch; where
    documents differ in a term's weight, its loss is the mean that counts them by it. So ``loss``
    is the sum of weights times losses. ``shares`` is each term's part of the last layer's gradient
    norm, None if not measured. ``metrics`` are the methods' own, normalised as their losses.
    """

    loss: float
    losses: tuple[float, ...]
    shares: tuple[float, ...] | None
    update: Update
    num_tokens: int
    seconds: dict[str, float] = field(default_factory=dict)
    weights: tuple[float, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What this rank's micro-batches gave: each term's total and metrics, gradients if asked."""

    totals: Float[Tensor, "term"]
    metrics: Float[Tensor, "metric"]
    last_layer: LastLayer | None


class StudentTrainer:
    """Splits a step into micro-batches, normalises once, and measures where time goes."""

    def __init__(
        self, engine: StudentEngine, objective: Objective, micro_batch: int, token_budget: int
    ) -> None:
        self.engine = engine
        self.objective = objective
        self.micro_batch = micro_batch
        self.token_budget = token_budget
        self.mixing = Mixing()
        self.shared: SharedTeacher | None = None
        self.seconds: dict[str, float] = {}

    def step(
        self,
        documents: Sequence[Document],
        signals: Sequence[DocumentSignals],
        num_scored_bytes: int,
        *,
        measure_shares: bool = False,
    ) -> StepReport:
        """Train on this rank's documents of one step.

        Args:
            documents: this rank's documents.
            signals: one entry a document: a signal for each term.
            num_scored_bytes: of the global batch.
            measure_shares: also measure each term's share of the last layer's gradient.

        Raises:
            TrainingDiverged: the loss or the gradient is not finite.
        """
        self.seconds = {}
        with self._timed("tokenize"):
            examples = self._examples(documents, signals)
        scale = self._scale(examples, num_scored_bytes)
        if self.mixing.needs_probe(self.objective):
            self.mixing.observe(self.objective, self._probe(examples, scale))
        weights = self.mixing.weights(self.objective)
        examples = share_out(examples, self.engine.module.terms, weights, self.objective.scheme)
        measured = self._pass(examples, scale, weights, measure_shares=measure_shares)
        with self._timed("optimizer"):
            update = self.engine.step()
        check_gradient(update)
        report, observed = self._report(measured, scale, weights, examples, update)
        if self.objective.scheme.observes is not None:
            self.mixing.observe(self.objective, observed)
        self.mixing.step += 1
        return report if measure_shares else replace(report, shares=None)

    def check(
        self, documents: Sequence[Document], signals: Sequence[DocumentSignals], gates: Gates
    ) -> list[Verdict]:
        """What must hold before the first step; every rank reads the same documents."""
        said = self._said(documents, signals)
        examples = [self._ready(example) for example in said]
        return check(self.engine.module, examples, self.micro_batch, gates, said)

    def leave_out(self, teachers: Collection[str]) -> dict[str, tuple[float, float]]:
        """Go on without these teachers: the others take over the weights of their terms.

        Gives each term's weight at this step, as it was and as it is.
        """
        before = self.mixing.weights(self.objective)
        terms = enumerate(self.engine.module.terms, start=1)
        silent = {i for i, term in terms if all(m.teacher in teachers for m in term.members)}
        self.objective = replace(self.objective, silent=frozenset(silent))
        now = self.mixing.weights(self.objective)
        pairs = zip(before, now, strict=True)
        return dict(zip(self._names, pairs, strict=True))

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """The student's own score of each document."""
        student = self.engine.module.student
        student.model.eval()
        scores = score(student, documents, self.token_budget)
        student.model.train()
        return scores

    def save_state(self, step: int, folder: Path, rank: int) -> None:
        """Write what is needed to continue exactly after ``step`` updates; every rank calls."""
        save_state(self.engine, step, folder, rank)
        if rank == 0 and self.objective.has_state:
            self.mixing.save(folder)

    def _examples(
        self, documents: Sequence[Document], signals: Sequence[DocumentSignals]
    ) -> list[Example]:
        """What the module reads."""
        return [self._ready(example) for example in self._said(documents, signals)]

    def _said(
        self, documents: Sequence[Document], signals: Sequence[DocumentSignals]
    ) -> list[Example]:
        """What the teachers say; longest first: micro-batches hold sequences of like length."""
        tokens = self.engine.module.student.encode(documents)
        rows = zip(documents, tokens, signals, strict=True)
        return sorted((example_of(*row) for row in rows), key=lambda e: -len(e.tokens))

    def _ready(self, example: Example) -> Example:
        terms, scheme = self.engine.module.terms, self.objective.scheme
        return ahead(combined(example, terms, scheme, self.mixing.step), terms)

    def _micro_batches(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        for start in range(0, len(examples), self.micro_batch):
            yield examples[start : start + self.micro_batch]

    def _scale(self, examples: Sequence[Example], num_scored_bytes: int) -> Float[Tensor, "term"]:
        """What each term's total is multiplied by, weights apart."""
        num_terms = len(self.objective.weights)
        if self.objective.normalize == "bytes":
            counts = torch.full((num_terms,), float(num_scored_bytes), dtype=torch.float64)
        else:
            counts = sum((self._units(e) for e in examples), torch.zeros(num_terms).double())
            counts = self.engine.all_reduce(counts)
        return torch.where(counts > 0, 1.0 / counts.clamp(min=1.0), torch.zeros_like(counts))

    def _units(self, example: Example) -> Float[Tensor, "term"]:
        scored = example.tokens.scored(example.document.scored)
        rows = zip(self.engine.module.terms, example.signals, strict=True)
        units = [
            0 if isinstance(s, Absent) else t.method.num_units(example.tokens, scored, s, t.pair)
            for t, s in rows
        ]
        return torch.tensor([int(scored.sum()), *units], dtype=torch.float64)

    def _probe(self, examples: Sequence[Example], scale: Float[Tensor, "term"]) -> Weights:
        """What the scheme observes, on this batch, without moving anything.

        ``module.forward`` leaves out the engine's hooks on the module as a whole, which would
        count the pass as one of training.
        """
        module, reduce = self.engine.module, self.engine.all_reduce
        if self.objective.scheme.observes == "norms":
            last_layer = LastLayer(module, scale)
            for micro_batch in self._micro_batches(examples):
                module.forward(micro_batch, last_layer.add)
            return last_layer.norms(reduce)
        with torch.no_grad():
            totals = [module.forward(batch) for batch in self._micro_batches(examples)]
        return tuple(reduce(sum(t.double().cpu() for t in totals) * scale).tolist())

    def _pass(
        self,
        examples: Sequence[Example],
        scale: Float[Tensor, "term"],
        weights: Weights,
        *,
        measure_shares: bool,
    ) -> Measured:
        """Forward and backward over all micro-batches.

        Norms that decide weights are those of the terms without them: a weight may be 0.
        """
        factors = torch.tensor(weights, dtype=torch.float64) * scale
        bare = self.objective.scheme.observes == "norms"
        last_layer = None
        if measure_shares or bare:
            last_layer = LastLayer(self.engine.module, scale if bare else factors)
        totals = torch.zeros(len(weights), dtype=torch.float64)
        self.engine.module.metrics.take()  # what was counted by a probe or a check
        for micro_batch in self._micro_batches(examples):
            totals += self._accumulate(micro_batch, factors, last_layer)
        return Measured(totals, self.engine.module.metrics.take(), last_layer)

    def _accumulate(
        self,
        micro_batch: Sequence[Example],
        factors: Float[Tensor, "term"],
        last_layer: LastLayer | None,
    ) -> Float[Tensor, "term"]:
        with self._timed("forward"):
            totals = self.engine.forward(micro_batch, last_layer.add if last_layer else None)
        objective = (totals * factors.to(totals)).sum()
        check_loss(objective, self._names, totals, micro_batch)
        with self._timed("backward"):
            self.engine.backward(objective)
        return totals.detach().double().cpu()

    def _report(
        self,
        measured: Measured,
        scale: Float[Tensor, "term"],
        weights: Weights,
        examples: Sequence[Example],
        update: Update,
    ) -> tuple[StepReport, Weights]:
        """The step, and what the scheme observes in it."""
        reduce, last_layer = self.engine.all_reduce, measured.last_layer
        metrics = self.engine.module.metrics
        num_tokens = torch.tensor([float(sum(len(e.tokens) for e in examples))]).double()
        rows = [measured.totals * scale, measured.metrics * scale[metrics.places], num_tokens]
        sums, factors = reduce(torch.cat(rows)).tolist(), self._mean_factors(examples)
        losses, counted = sums[: len(scale)], sums[len(scale) : -1]
        norms = None if last_layer is None else last_layer.norms(reduce)
        bare = self.objective.scheme.observes == "norms"
        observed = norms if bare and norms is not None else tuple(losses)
        weighted = [n * w for n, w in zip(norms or (), weights if norms else (), strict=True)]
        report = StepReport(
            loss=math.fsum(w * value for w, value in zip(weights, losses, strict=True)),
            losses=tuple(v / f if f else 0.0 for v, f in zip(losses, factors, strict=True)),
            shares=None if norms is None else shares_of(weighted if bare else norms),
            update=update,
            num_tokens=int(sums[-1]),
            seconds=dict(self.seconds),
            weights=tuple(w * f for w, f in zip(weights, factors, strict=True)),
            metrics=metrics.named(counted, factors),
        )
        return report, observed

    def _mean_factors(self, examples: Sequence[Example]) -> list[float]:
        """What documents multiply each term's weight by: mean over the global batch's bytes.

        A loss by its own units is a mean over the documents that its teacher reads, so then only
        their bytes count.
        """
        by_units = self.objective.normalize == "units"
        sums = torch.zeros(2, len(self.objective.weights), dtype=torch.float64)
        for example in examples:
            read = [1.0, *(float(not isinstance(s, Absent)) for s in example.signals)]
            counted = read if by_units else [1.0] * len(read)
            rows = torch.tensor([factors_of(example), counted], dtype=torch.float64)
            sums += example.document.num_scored_bytes * rows
        top, bottom = self.engine.all_reduce(sums.flatten()).view(2, -1).tolist()
        return [a / b if b else 1.0 for a, b in zip(top, bottom, strict=True)]

    @property
    def _names(self) -> list[str]:
        return ["ce", *(term.name for term in self.engine.module.terms)]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
