"""Which gates are run, and what they find."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

TOLERANCE = {
    "identity": {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3},
    "chunked": {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    "order": {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2},
}
"""Largest loss or difference of losses in nats a scored byte, by number format: docs/gates.md."""

REMEDY = {
    "identity": "the method's signal and loss do not fit together (a row too early or too late, "
    "other scored tokens, another head); checks.identity: false switches the gate off",
    "chunked": "a row's loss depends on the rows it is read with; look at the method's calls of "
    "map_rows; checks.chunked: false switches the gate off",
    "order": "padding or a neighbour in the batch reaches the document; try another "
    "attn_implementation in student.model_options; checks.order: false switches the gate off",
}
"""What a failure means and what to do."""


@dataclass(frozen=True)
class Gates:
    """Which gates are run, and their limits.

    Args:
        min_coverage: share of the scored bytes; None leaves the gate out.
        tolerance: nats a scored byte; None takes ``TOLERANCE``.
    """

    identity: bool = True
    likelihood: bool = True
    chunked: bool = True
    order: bool = True
    min_coverage: float | None = 0.5
    tolerance: float | None = None

    def tolerance_of(self, gate: str, *formats: torch.dtype) -> float:
        """The limit where these number formats meet: that of the coarsest."""
        if self.tolerance is not None:
            return self.tolerance
        known = TOLERANCE[gate]
        return max(known.get(kind, known[torch.float32]) for kind in formats)


@dataclass(frozen=True)
class Measured:
    """A loss, or how far two losses differ, in nats a scored byte of a document."""

    document: str
    value: float


@dataclass(frozen=True)
class Verdict:
    """One gate on one term.

    Args:
        gate: ``coverage``, ``likelihood``, ``identity``, ``chunked`` or ``order``.
        term: ``ce`` or ``teacher/method``; the teacher alone for the first two gates.
        value: what was measured, of the worst document (first two gates: of all together).
        limit: what ``value`` is compared with.
        problem: empty if the gate is passed, else what is wrong, where, and what to do.
    """

    gate: str
    term: str
    value: float
    limit: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """True if nothing is wrong."""
        return not self.problem


def judge(gate: str, term: str, measured: Sequence[Measured], limit: float) -> Verdict:
    """Compare the largest value with the limit; one that is no number is larger than any.

    >>> found = judge("order", "ce", [Measured("a", 0.0), Measured("b", 0.25)], limit=0.1)
    >>> found.value, found.passed
    (0.25, False)
    """
    worst = max(measured, key=lambda m: math.inf if math.isnan(m.value) else abs(m.value))
    if abs(worst.value) <= limit:
        return Verdict(gate, term, worst.value, limit)
    problem = (
        f"gate {gate}: {term} is off by {worst.value:.3g} nats a byte on document "
        f"{worst.document}; expected at most {limit:g} (checks.tolerance): {REMEDY[gate]}"
    )
    return Verdict(gate, term, worst.value, limit, problem)
