"""How far the teachers may work ahead of the student: in steps, and in bytes of signals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ray.experimental.locations import get_local_object_locations

Sizes: TypeAlias = Callable[[Sequence[Any]], list[int | None]]
"""Bytes of what is behind each reference; None while it is not there."""


def sizes_of(references: Sequence[Any]) -> list[int | None]:
    """What this process knows of the sizes, without a message and without opening anything."""
    known = get_local_object_locations(list(references))
    return [known.get(reference, {}).get("object_size") for reference in references]


@dataclass
class Ahead:
    """What may be asked for beyond the step that the student takes next.

    Args:
        steps: at most so many.
        max_bytes: signals of at most so many bytes; None does not count them. A step that is not
            there yet counts as much as the largest one that was.
        in_turns: the teachers answer ``steps`` steps in a row, then the student takes them all,
            since only one of them can use the device at a time.
        sizes: how sizes are found.
    """

    steps: int
    max_bytes: int | None = None
    in_turns: bool = False
    sizes: Sizes = sizes_of
    largest: int | None = None
    """Bytes of the largest step so far."""

    @property
    def window(self) -> int:
        """Steps that are asked for together."""
        return self.steps if self.in_turns else 1

    def has_room(self, waiting: Sequence[Sequence[Any]]) -> bool:
        """True if another step may be asked for.

        Args:
            waiting: the references of each step that is asked for and not handed out, in order;
                the first one is the student's next.
        """
        if self.in_turns:
            return not waiting
        if self.max_bytes is None or not waiting:
            return True
        sizes = [self.learn(references) for references in waiting]
        if self.largest is None:
            return False
        ahead = sum(self.largest if size is None else size for size in sizes[1:])
        return ahead + self.largest <= self.max_bytes

    def learn(self, references: Sequence[Any]) -> int | None:
        """Bytes of one step; None while something of it is missing, or if bytes do not count."""
        if self.max_bytes is None:
            return None
        sizes = self.sizes(references)
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return None
        self.largest = max(sum(known), self.largest or 0)
        return sum(known)
