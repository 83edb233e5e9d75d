"""The module DeepSpeed wraps: student forward and every loss inside one ``forward``.

Losses run in here because under ZeRO-3 a weight outside a module's forward has shape (0,).
Totals leave un-normalised; what they are divided by depends on the whole global batch, which
one micro-batch cannot know.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import LossTerm, Method, Pair
from losses.cross_entropy import cross_entropy
from losses.document import Document
from losses.mixture import Absent, Schedule, TeacherScore
from losses.prediction import Head, Prediction
from losses.signals import Signal
from orchestrator.student.metric_sums import MetricSums
from teachers.backends.transformers import LanguageModel


@dataclass(frozen=True)
class Term:
    """One (teacher, method) of the mixture; ``weight`` is the product of both as written."""

    teacher: str
    method_name: str
    method: Method
    weight: float | Schedule
    pair: Pair

    @property
    def name(self) -> str:
        """``teacher/method``, as in the metrics."""
        return f"{self.teacher}/{self.method_name}"

    @property
    def members(self) -> "tuple[Term, ...]":
        """The terms of single teachers that it stands for: itself, or those of an ensemble."""
        return (self,)

    def attach(self, teacher: str, head: Head) -> "Term":
        """The same term with a teacher's head, if it is this term's and the method reads it."""
        return self.with_head(head) if self.teacher == teacher else self

    def with_head(self, head: Head) -> "Term":
        """The same term with the teacher's head in its pair, if the method reads it."""
        if not self.method.needs_teacher_head:
            return self
        return replace(self, pair=replace(self.pair, teacher_head=head))


@dataclass(frozen=True)
class Example:
    """A document as the student sees it, with one signal for each term.

    ``scores`` has one entry a teacher if the mixture asks for them; ``shares`` are the document's
    factors of the terms' weights, cross-entropy first, None for 1.
    """

    document: Document
    tokens: Tokens
    signals: tuple[Signal, ...]
    scores: tuple[TeacherScore, ...] = ()
    shares: tuple[float, ...] | None = None


Probe: TypeAlias = Callable[[Tensor], None]
"""Called with the terms' totals while their graph is alive."""


class DistillModule(nn.Module):
    """Student plus losses.

    Args:
        student: model, tokenizer and head.
        terms: the distillation terms, in the order of each example's signals.
    """

    def __init__(self, student: LanguageModel, terms: Sequence[Term]) -> None:
        super().__init__()
        self.model = student.model
        self.student = student
        self.terms = tuple(terms)
        pairs = [replace(term.pair, student_head=student.head) for term in self.terms]
        self.method_modules = nn.ModuleList(
            term.method.modules(pair) for term, pair in zip(self.terms, pairs, strict=True)
        )
        self.method_modules.to(student.device)
        self._with_borrowed = tuple(_with_borrowed(self.terms, self.method_modules))
        self.metrics = MetricSums([(term.name, term.method) for term in self.terms])

    def attach_head(self, teacher: str, head: Head) -> None:
        """Give a teacher's rebuilt head to those of its terms that read it."""
        self.terms = tuple(term.attach(teacher, head) for term in self.terms)

    @property
    def members(self) -> tuple[Term, ...]:
        """The terms of single teachers, in the order in which their signals arrive."""
        return tuple(member for term in self.terms for member in term.members)

    def forward(
        self, examples: Sequence[Example], probe: Probe | None = None
    ) -> Float[Tensor, "term"]:
        """Cross-entropy, then each term: totals (nats) summed over the examples' documents.

        The probe looks at the totals in here: an engine may forbid gradients of its outputs
        other than by its own backward pass.

        Every trained parameter of a method gets a gradient, a zero one where no document had
        anything for the method: ranks must reduce the same parameters. Under ZeRO-3 they must
        also gather the same ones, so there a method calls its modules once a document, on no
        rows if it has none.
        """
        tokens = [example.tokens for example in examples]
        states = self.student.hidden_states(tokens)
        totals = [self._totals(e, h) for e, h in zip(examples, states, strict=True)]
        summed = torch.stack(totals).sum(0) + self._nothing()
        if probe is not None:
            probe(summed)
        return summed

    def _totals(
        self, example: Example, hidden: Float[Tensor, "token hidden"]
    ) -> Float[Tensor, "term"]:
        prediction = self.student.prediction(example.document, example.tokens, hidden)
        losses = self.losses(prediction, example.signals)
        shares = example.shares or (1.0,) * len(losses)
        for term, loss, share in zip(self.terms, losses[1:], shares[1:], strict=True):
            self.metrics.add(term.name, loss, share)
        totals = torch.stack([loss.total for loss in losses])
        return totals if example.shares is None else totals * totals.new_tensor(example.shares)

    def losses(self, prediction: Prediction, signals: Sequence[Signal]) -> list[LossTerm]:
        """One document's cross-entropy, then each term's loss; zero where a signal is absent."""
        found = [cross_entropy(prediction)]
        for term, modules, signal in zip(self.terms, self._with_borrowed, signals, strict=True):
            if isinstance(signal, Absent):
                found.append(_no_loss(term, prediction, modules))
            else:
                found.append(term.method.loss(prediction, signal, term.pair, modules))
        return found

    def _nothing(self) -> Float[Tensor, ""]:
        """Zero, with a zero gradient to the methods' parameters (those that are here whole)."""
        parameters = [p for p in self.method_modules.parameters() if p.requires_grad]
        zeros = (p.flatten()[:0].sum() for p in parameters if p.numel())
        return sum(zeros, torch.zeros((), device=self.student.device))


def _no_loss(term: Term, prediction: Prediction, modules: nn.ModuleDict) -> LossTerm:
    """The loss of a document that does not go to the teacher.

    Raises:
        ValueError: under ZeRO-3 the method's modules must be called once a document.
    """
    if any(hasattr(parameter, "ds_id") for parameter in modules.parameters()):
        raise ValueError(
            f"{term.name} trains parameters of its own, which under ZeRO-3 every document must "
            "reach; expected deepspeed.zero_optimization.stage up to 2 with mixture.routing or "
            "the weights select"
        )
    return LossTerm(prediction.hidden.new_zeros(()), 0)


def _with_borrowed(terms: Sequence[Term], modules: Iterable[nn.Module]) -> Iterator[nn.ModuleDict]:
    """Each term's own modules, and those it borrows from the same teacher's other terms."""
    owned = []
    for term, own in zip(terms, modules, strict=True):
        if not isinstance(own, nn.ModuleDict):
            raise TypeError(f"{term.name}: modules() must give a ModuleDict")
        owned.append(own)
    for term, own in zip(terms, owned, strict=True):
        others = (o for t, o in zip(terms, owned, strict=True) if t.teacher == term.teacher)
        lent = {name: o[name] for o in others for name in o if name in term.method.borrows}
        yield nn.ModuleDict(lent | dict(own.items()))
