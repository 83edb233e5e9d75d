"""Gate on the teachers: each predicts the text better than a guess among all of its tokens.

A model that is fed the ids of another tokenizer guesses worse than that.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from orchestrator.gates.verdict import Verdict
from orchestrator.student.module import Example, Term


@runtime_checkable
class HasLikelihoods(Protocol):
    """A signal with one likelihood a token, NaN where the teacher says nothing."""

    logprob: Float32[np.ndarray, "token"]


def likelihood(terms: Sequence[Term], examples: Sequence[Example]) -> list[Verdict]:
    """A verdict a teacher (nats a token), if one of its signals tells likelihoods."""
    verdicts: list[Verdict] = []
    for index, term in enumerate(terms):
        if not term.method.tells_likelihoods:
            continue
        signals = [example.signals[index] for example in examples]
        told = [signal.logprob for signal in signals if isinstance(signal, HasLikelihoods)]
        known = [values[np.isfinite(values)] for values in told]
        if sum(map(len, known)) and term.teacher not in {verdict.term for verdict in verdicts}:
            nats = -float(np.concatenate(known).mean())
            verdicts.append(_verdict(term, nats))
    return verdicts


def _verdict(term: Term, nats: float) -> Verdict:
    limit = math.log(len(term.pair.teacher))
    if nats <= limit:
        return Verdict("likelihood", term.teacher, nats, limit)
    problem = (
        f"gate likelihood: teacher {term.teacher} needs {nats:.2f} nats a token, more than the "
        f"{limit:.2f} of a guess among its {len(term.pair.teacher)} tokens: check that "
        f"teachers.{term.teacher}.model is trained and has its own tokenizer; "
        "checks.likelihood: false switches the gate off"
    )
    return Verdict("likelihood", term.teacher, nats, limit, problem)
