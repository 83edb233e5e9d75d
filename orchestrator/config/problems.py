"""Several things wrong with one part of the run file, each with its own path."""

from collections.abc import Iterable
from dataclasses import dataclass

Location = tuple[str | int, ...]
"""Keys and list indices from the top of the run file, or relative to the part being checked."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        location: path of the value.
        text: what is wrong with the value and what was expected.
    """

    location: Location
    text: str


class Problems(ValueError):
    """Raised by a validator that has more to say than one sentence about its own value.

    ``levels_up`` says how far above the validated value the locations start: 1 where a field
    stands for keys of the mapping that holds it, as a method's options do.
    """

    def __init__(self, problems: Iterable[Problem], levels_up: int = 0) -> None:
        self.problems = tuple(problems)
        self.levels_up = levels_up
        super().__init__("\n".join(f"{entry.location}: {entry.text}" for entry in self.problems))


def raise_if_any(problems: Iterable[Problem], levels_up: int = 0) -> None:
    """Raise `Problems` unless there are none."""
    if found := tuple(problems):
        raise Problems(found, levels_up)
