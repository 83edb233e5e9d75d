"""Counts the bytes of the signals that reach a rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from losses.signals import Signal
from teachers.document_signals import DocumentSignals


@dataclass
class Received:
    """Bytes of the signals' fields by teacher, over so many steps."""

    num_steps: int = 0
    num_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, signals: Mapping[str, Sequence[DocumentSignals]]) -> None:
        """Count one step's."""
        self.num_steps += 1
        for teacher, rows in signals.items():
            size = sum(s.num_bytes for row in rows for s in row if isinstance(s, Signal))
            self.num_bytes[teacher] = self.num_bytes.get(teacher, 0) + size
