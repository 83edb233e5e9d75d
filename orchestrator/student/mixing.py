"""The weights of each step and of each document, and the state that they need.

Where weights depend on the past, rank 0 saves the state in ``state/mixture.json``: the number of
steps done and what the scheme observed.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from losses.mixture import Absent, Scheme
from losses.mixture.scheme import Weights
from orchestrator.student.module import Example, Term
from orchestrator.student.objective import Objective

STATE_FILE = "mixture.json"


@dataclass
class Mixing:
    """Where the mixture stands; the same on all ranks, since all that it reads is reduced.

    Args:
        step: steps done.
        average: what the scheme observed so far, one number a term; None before the probe.
    """

    step: int = 0
    average: Weights | None = None

    def needs_probe(self, objective: Objective) -> bool:
        """True before the first step of a scheme that reads what former steps measured."""
        return objective.scheme.observes is not None and self.average is None

    def weights(self, objective: Objective) -> Weights:
        """The terms' weights at this step."""
        written = objective.written(self.step)
        return objective.scheme.weights(written, self.average or (0.0,) * len(written))

    def observe(self, objective: Objective, values: Weights) -> None:
        """Take in what the scheme observes, measured on a global batch."""
        self.average = objective.scheme.averaged(self.average, values)

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint's state folder; numbers keep every bit."""
        (folder / STATE_FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Mixing":
        """Read it from a checkpoint's state folder.

        Raises:
            ValueError: the folder has none.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise ValueError(
                f"{path} is missing, but the weights of the run file depend on it; resume with the "
                "run file that the checkpoint was made with"
            )
        found = json.loads(path.read_text(encoding="utf-8"))
        average = None if found["average"] is None else tuple(found["average"])
        return cls(found["step"], average)


def share_out(
    examples: Sequence[Example], terms: Sequence[Term], weights: Weights, scheme: Scheme
) -> list[Example]:
    """Each document with its factors of the terms' weights, as the scheme divides it.

    A signal whose factor is 0 becomes ``Absent``, so that its loss is not computed.

    Args:
        examples: documents with their teachers' scores, if the scheme asks for them.
        terms: the distillation terms.
        weights: of this step, cross-entropy first.
        scheme: divides each document among the teachers that it goes to.

    Raises:
        ValueError: a score is missing.
    """
    if scheme.asks is None or any(len(term.members) > 1 for term in terms):
        return list(examples)  # an ensemble has read the scores already
    teachers = list(dict.fromkeys(term.teacher for term in terms))
    rows = list(zip(terms, weights[1:], strict=True))
    written = {n: math.fsum(w for t, w in rows if t.teacher == n) for n in teachers}
    return [_shared(example, terms, written, scheme) for example in examples]


def _shared(
    example: Example, terms: Sequence[Term], written: dict[str, float], scheme: Scheme
) -> Example:
    if len(example.scores) != len(written):
        raise ValueError(
            f"document {example.document.name}: {len(example.scores)} scores for the teachers "
            f"{', '.join(written)}; build each Teacher with the mixture's asks"
        )
    scores = dict(zip(written, example.scores, strict=True))
    present = [name for name in written if example.document.goes_to(name)]
    found = scheme.shares([written[n] for n in present], [scores[n] for n in present])
    share_of = dict(zip(present, found, strict=True))
    shares = tuple(share_of.get(term.teacher, 0.0) for term in terms)
    signals = (s if share else Absent() for s, share in zip(example.signals, shares, strict=True))
    return replace(example, signals=tuple(signals), shares=(1.0, *shares))


def factors_of(example: Example) -> Weights:
    """What a document multiplies each term's weight by; 0 where it has no loss of the term."""
    shares = example.shares or (1.0,) * (1 + len(example.signals))
    absent = (False, *(isinstance(signal, Absent) for signal in example.signals))
    return tuple(0.0 if gone else share for gone, share in zip(absent, shares, strict=True))
