"""What a teacher says of one document."""

from typing import TypeAlias

from losses.signals import Signal

DocumentSignals: TypeAlias = tuple[Signal, ...]
"""One document's signals, one for each of the teacher's methods, in their order; then the teacher's
score, if it is asked for."""
