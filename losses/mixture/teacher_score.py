"""What a teacher sends about a document beside its methods' signals: how sure it is, or nothing."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from losses.signals import Signal

Metric: TypeAlias = Literal["ce", "entropy"]
"""What a teacher is judged by: cross-entropy of the text, or entropy of its predictions."""

Per: TypeAlias = Literal["byte", "token"]
"""What the mean is over. Only bytes are the same for teachers of different tokenizers."""


@dataclass(frozen=True)
class TeacherScore(Signal):
    """One teacher on one document's scored tokens: 24 bytes on the wire.

    Args:
        nats: sum over the tokens, of the metric that was asked for.
        num_scored_bytes: bytes of these tokens.
        num_scored_tokens: these tokens, in the teacher's own tokenizer.
    """

    nats: float
    num_scored_bytes: int
    num_scored_tokens: int

    def mean(self, per: Per) -> float:
        """Nats per byte or per token; infinite where the teacher has nothing scored.

        >>> TeacherScore(nats=6.0, num_scored_bytes=4, num_scored_tokens=2).mean("byte")
        1.5
        """
        count = self.num_scored_bytes if per == "byte" else self.num_scored_tokens
        return self.nats / count if count else math.inf


@dataclass(frozen=True)
class Absent(Signal):
    """Stands for a signal of a teacher that the document does not go to: no loss, no unit."""


@dataclass(frozen=True)
class Unusable(Absent):
    """Stands for a signal that the teacher could not give because it was no number.

    Args:
        reason: what was not finite.
    """

    reason: str
