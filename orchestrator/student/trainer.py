"""One rank of the student: examples in, updates out. Knows nothing of Ray."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from losses.document import Document
from orchestrator.errors import TrainingDiverged
from orchestrator.gates.student import check
from orchestrator.gates.verdict import Gates, Verdict
from orchestrator.student.engine import StudentEngine, Update
from orchestrator.student.gradients import LastLayer
from orchestrator.student.module import Example
from teachers.evaluation import DocumentScore, score
from teachers.teacher import DocumentSignals


@dataclass(frozen=True)
class Objective:
    """How the terms are mixed: ``weights`` in the module's order (cross-entropy first)."""

    weights: tuple[float, ...]
    normalize: str


@dataclass(frozen=True)
class StepReport:
    """One step, summed over all ranks; ``losses`` are normalised but not weighted.

    ``shares`` is each term's part of the last layer's gradient norm, None if not measured.
    """

    loss: float
    losses: tuple[float, ...]
    shares: tuple[float, ...] | None
    update: Update
    num_tokens: int
    seconds: dict[str, float] = field(default_factory=dict)


class StudentTrainer:
    """Splits a step into micro-batches, normalises once, and measures where time goes."""

    def __init__(
        self, engine: StudentEngine, objective: Objective, micro_batch: int, token_budget: int
    ) -> None:
        self.engine = engine
        self.objective = objective
        self.micro_batch = micro_batch
        self.token_budget = token_budget
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
        factors = torch.tensor(self.objective.weights, dtype=torch.float64) * scale
        last_layer = LastLayer(self.engine.module, factors) if measure_shares else None
        totals = torch.zeros(len(self.objective.weights), dtype=torch.float64)
        for micro_batch in self._micro_batches(examples):
            totals += self._accumulate(micro_batch, factors, last_layer)
        with self._timed("optimizer"):
            update = self.engine.step()
        if not math.isfinite(update.grad_norm):
            raise TrainingDiverged(
                f"the gradient's norm is {update.grad_norm}, though the loss is finite: lower "
                "train.learning_rate or raise train.warmup_steps"
            )
        return self._report(totals, scale, examples, update, last_layer)

    def check(
        self, documents: Sequence[Document], signals: Sequence[DocumentSignals], gates: Gates
    ) -> list[Verdict]:
        """What must hold before the first step; every rank reads the same documents."""
        examples = self._examples(documents, signals)
        return check(self.engine.module, examples, self.micro_batch, gates)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """The student's own score of each document."""
        student = self.engine.module.student
        student.model.eval()
        scores = score(student, documents, self.token_budget)
        student.model.train()
        return scores

    def _examples(
        self, documents: Sequence[Document], signals: Sequence[DocumentSignals]
    ) -> list[Example]:
        """Longest first, so that micro-batches hold sequences of like length."""
        tokens = self.engine.module.student.encode(documents)
        rows = zip(documents, tokens, signals, strict=True)
        examples = [Example(document, view, row) for document, view, row in rows]
        return sorted(examples, key=lambda example: -len(example.tokens))

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
        units = [t.method.num_units(example.tokens, scored, s, t.pair) for t, s in rows]
        return torch.tensor([int(scored.sum()), *units], dtype=torch.float64)

    def _accumulate(
        self,
        micro_batch: Sequence[Example],
        factors: Float[Tensor, "term"],
        last_layer: LastLayer | None,
    ) -> Float[Tensor, "term"]:
        with self._timed("forward"):
            totals = self.engine.forward(micro_batch, last_layer.add if last_layer else None)
        objective = (totals * factors.to(totals)).sum()
        if not torch.isfinite(objective):
            raise TrainingDiverged(_not_finite(self._names, totals, micro_batch))
        with self._timed("backward"):
            self.engine.backward(objective)
        return totals.detach().double().cpu()

    def _report(
        self,
        totals: Float[Tensor, "term"],
        scale: Float[Tensor, "term"],
        examples: Sequence[Example],
        update: Update,
        last_layer: LastLayer | None,
    ) -> StepReport:
        num_tokens = torch.tensor([float(sum(len(e.tokens) for e in examples))])
        sums = self.engine.all_reduce(torch.cat([totals * scale, num_tokens.double()]))
        losses, weights = sums[:-1].tolist(), self.objective.weights
        return StepReport(
            loss=math.fsum(w * value for w, value in zip(weights, losses, strict=True)),
            losses=tuple(losses),
            shares=None if last_layer is None else last_layer.shares(self.engine.all_reduce),
            update=update,
            num_tokens=int(sums[-1]),
            seconds=dict(self.seconds),
        )

    @property
    def _names(self) -> list[str]:
        return ["ce", *(term.name for term in self.engine.module.terms)]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _not_finite(
    names: Sequence[str], totals: Float[Tensor, "term"], micro_batch: Sequence[Example]
) -> str:
    """Which terms are not finite, on which documents; all terms if only their sum is not."""
    values = zip(names, totals.tolist(), strict=True)
    wrong = [f"{name} is {value}" for name, value in values if not math.isfinite(value)]
    documents = ", ".join(example.document.name for example in micro_batch)
    return (
        f"the loss is not finite: {', '.join(wrong) or 'the weighted sum'} on documents "
        f"{documents}; lower train.learning_rate or raise train.warmup_steps; if it happens at "
        "the first step, check the data"
    )
