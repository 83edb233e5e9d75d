"""Gates on the student's side: its losses on a few documents, with nothing trained yet.

All ranks must run them on the same documents: under ZeRO-3 they gather weights together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from losses.alignment.projection import identity_projection
from losses.prediction import Prediction
from orchestrator.gates.coverage import coverage
from orchestrator.gates.likelihood import likelihood
from orchestrator.gates.verdict import Gates, Measured, Verdict, judge
from orchestrator.student.module import DistillModule, Example, Term
from teachers.backends.transformers import LanguageModel

ROWS = 7
"""Rows of a chunk where documents are read in row chunks: few, and they part unevenly."""


@dataclass(frozen=True)
class Read:
    """A document with the student's hidden states on it."""

    example: Example
    hidden: Float[Tensor, "token hidden"]

    @property
    def name(self) -> str:
        """The document's name."""
        return self.example.document.name

    def prediction(self, student: LanguageModel) -> Prediction:
        """The student's prediction of the document; each call computes it anew."""
        return student.prediction(self.example.document, self.example.tokens, self.hidden)

    def losses(self, module: DistillModule, student: LanguageModel) -> Float64[Tensor, "term"]:
        """Each term's loss in nats a scored byte."""
        found = module.losses(self.prediction(student), self.example.signals)
        return torch.stack([self.per_byte(loss.total) for loss in found])

    def per_byte(self, total: Float[Tensor, ""]) -> Float64[Tensor, ""]:
        """A total over the document's scored bytes."""
        return total.double().cpu() / max(1, self.example.document.num_scored_bytes)


def check(
    module: DistillModule,
    examples: Sequence[Example],
    micro_batch: int,
    gates: Gates,
    said: Sequence[Example] | None = None,
) -> list[Verdict]:
    """Run the gates that are on.

    Args:
        module: the loaded student and its terms, with their teachers' heads.
        examples: a few documents with their teachers' signals.
        micro_batch: documents in one forward pass of training; here at least two.
        gates: which ones, and their limits.
        said: the same documents with each teacher's signals as they arrived; the examples' own
            if nothing was done to these.
    """
    verdicts, told = [], examples if said is None else said
    if gates.min_coverage is not None:
        verdicts += coverage(module.members, told, gates.min_coverage)
    if gates.likelihood:
        verdicts += likelihood(module.members, told)
    on = gates.identity or gates.chunked or gates.order
    if not on or not all(verdict.passed for verdict in verdicts):
        return verdicts  # the other gates would only repeat the complaint
    with _evaluating(module):
        longest_first = sorted(examples, key=lambda example: -len(example.tokens))
        together = read(module, longest_first, max(2, micro_batch))
        verdicts += identity(module, together, gates) if gates.identity else []
        if gates.chunked or gates.order:
            verdicts += _same_losses(module, together, gates)
    return verdicts


def read(module: DistillModule, examples: Sequence[Example], size: int) -> list[Read]:
    """The student's hidden states, ``size`` documents together in each forward pass."""
    found = []
    for start in range(0, len(examples), size):
        batch = examples[start : start + size]
        tokens = [example.tokens for example in batch]
        states = module.student.hidden_states(tokens)
        found += [Read(e, h) for e, h in zip(batch, states, strict=True)]
    return found


def identity(module: DistillModule, together: Sequence[Read], gates: Gates) -> list[Verdict]:
    """The student as its own teacher: zero loss, for each method that promises it."""
    limit = gates.tolerance_of("identity", together[0].hidden.dtype)
    verdicts = []
    for term, modules in zip(module.terms, module.method_modules, strict=True):
        if term.method.zero_at_identity:
            measured = [_own_loss(module.student, one, term, modules) for one in together]
            verdicts.append(judge("identity", term.name, measured, limit))
    return verdicts


def _own_loss(student: LanguageModel, one: Read, term: Term, modules: nn.Module) -> Measured:
    """The loss on the signal that the student itself would send."""
    if not isinstance(modules, nn.ModuleDict):
        raise TypeError(f"{term.name}: modules() must give a ModuleDict")
    own = term.pair.student
    pair = replace(term.pair, teacher=own, teacher_head=student.head)
    if term.method.needs_projection:
        pair = replace(pair, projection=identity_projection(len(own)))
        modules = term.method.modules(pair).to(student.device)  # W's own weights fit only W
    prediction, tokens = one.prediction(student), one.example.tokens
    scored = tokens.scored(one.example.document.scored)
    signal = term.method.signal(prediction, one.example.document)
    signal = term.method.ahead(tokens, scored, signal, pair)
    loss = term.method.loss(one.prediction(student), signal, pair, modules)
    return Measured(one.name, float(one.per_byte(loss.total)))


def _same_losses(
    module: DistillModule, together: Sequence[Read], gates: Gates
) -> Iterator[Verdict]:
    usual = torch.stack([one.losses(module, module.student) for one in together])
    if gates.chunked:
        gaps = (chunked(module, together) - usual).abs()
        yield from _verdicts("chunked", module, together, gaps, gates)
    if gates.order:
        gaps = (order(module, together) - usual).abs()
        yield from _verdicts("order", module, together, gaps, gates)


def chunked(module: DistillModule, together: Sequence[Read]) -> Float64[Tensor, "document term"]:
    """Losses read in chunks of a few rows; they must equal those of the whole table."""
    cut = replace(module.student, elements_in_memory=ROWS * module.student.head.num_valid)
    return torch.stack([one.losses(module, cut) for one in together])


def order(module: DistillModule, together: Sequence[Read]) -> Float64[Tensor, "document term"]:
    """Losses of each document alone, the last one first; they must equal those of the batch."""
    examples = [one.example for one in reversed(together)]
    alone = [one.losses(module, module.student) for one in read(module, examples, 1)]
    return torch.stack(alone[::-1])


def _verdicts(
    gate: str,
    module: DistillModule,
    together: Sequence[Read],
    gaps: Float64[Tensor, "document term"],
    gates: Gates,
) -> Iterator[Verdict]:
    student = together[0].hidden.dtype
    for term, column in zip([None, *module.terms], gaps.unbind(1), strict=True):
        values = zip(together, column.tolist(), strict=True)
        measured = [Measured(one.name, gap) for one, gap in values]
        limit = gates.tolerance_of(gate, student, *_head_formats(term))
        yield judge(gate, term.name if term else "ce", measured, limit)


def _head_formats(term: Term | None) -> set[torch.dtype]:
    """Number formats of the teachers' heads that the term computes with, if any."""
    heads = [member.pair.teacher_head for member in term.members] if term else []
    return {p.dtype for head in heads if head for p in head.linear.parameters()}


@contextmanager
def _evaluating(module: DistillModule) -> Iterator[None]:
    """No dropout and no gradients; the model's mode is put back."""
    was_training = module.model.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train()
        module.model.train(was_training)
