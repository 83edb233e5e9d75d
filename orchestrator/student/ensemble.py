"""Several teachers' terms as one: their targets are combined, then there is one loss.

The metrics call it ``ensemble/METHOD``. Its weight is the sum of its members', whose proportions
weigh their targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from losses.base import Pair
from losses.ensembles import Ensemble, EnsemblePair, Said, ensemble_of
from losses.mixture import Absent, Scheme
from losses.mixture.schedule import weight_at
from losses.mixture.targets import Mean
from losses.prediction import Head
from losses.signals import Signal
from orchestrator.student.module import Example, Term

ENSEMBLE = "ensemble"
"""Stands for the teacher's name."""


@dataclass(frozen=True)
class EnsembleTerm(Term):
    """The term of an ensemble.

    Args:
        parts: its members' own terms, in the order of each document's signals.
        ensemble: how what they say becomes one signal.
    """

    parts: tuple[Term, ...]
    ensemble: Ensemble

    @classmethod
    def of(cls, parts: Sequence[Term], mean: Mean) -> "EnsembleTerm":
        """The ensemble of terms of one and the same method.

        Raises:
            ValueError: their targets cannot be combined.
        """
        first = parts[0]
        ensemble = ensemble_of(first.method_name, first.method, mean)
        for part in parts:
            ensemble.check(part.pair)
        return cls(
            teacher=ENSEMBLE,
            method_name=first.method_name,
            method=ensemble.method,
            weight=first.weight,
            pair=_pair([part.pair for part in parts]),
            parts=tuple(parts),
            ensemble=ensemble,
        )

    @property
    def members(self) -> tuple[Term, ...]:
        return self.parts

    def attach(self, teacher: str, head: Head) -> "EnsembleTerm":
        parts = tuple(part.attach(teacher, head) for part in self.parts)
        return replace(self, parts=parts, pair=_pair([part.pair for part in parts]))

    def combined(self, example: Example, scheme: Scheme, step: int) -> Signal:
        """What the ensemble says of a document; ``Absent`` if no member of positive weight does."""
        weights = self._weights(example, scheme, step)
        rows = enumerate(zip(example.signals, weights, strict=True))
        said = [Said(i, w, s) for i, (s, w) in rows if w > 0 and not isinstance(s, Absent)]
        if not said:
            return Absent()
        scored = example.tokens.scored(example.document.scored)
        return self.ensemble.combined(example.tokens, scored, said, self.pair.student)

    def _weights(self, example: Example, scheme: Scheme, step: int) -> list[float]:
        """Each member's weight on a document, as the scheme divides it among those that read it."""
        written = [weight_at(part.weight, step) for part in self.parts]
        if not any(written):  # as without an ensemble: a loss of weight 0 is still measured
            written = [1.0] * len(written)
        if scheme.asks is None:
            return written
        read = [i for i, s in enumerate(example.signals) if not isinstance(s, Absent)]
        scores = [example.scores[i] for i in read]
        shares = scheme.shares([written[i] for i in read], scores)
        factors = dict(zip(read, shares, strict=True))
        return [weight * factors.get(place, 0.0) for place, weight in enumerate(written)]


def _pair(members: Sequence[Pair]) -> EnsemblePair:
    first = members[0]
    return EnsemblePair(
        student=first.student,
        teacher=first.student,
        encode_student=first.encode_student,
        student_width=first.student_width,
        members=tuple(members),
    )
