"""Several processes that answer as one teacher.

The documents of a request are dealt in consecutive groups, always the same ones for the same
request, so a run can be repeated bit for bit. Answers stay where they are: only references pass
through here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, pairwise
from typing import Any

import ray

from losses.document import Document
from orchestrator.in_turn import InTurn


@dataclass(frozen=True)
class Parts:
    """References of lists that together are one list, in this order."""

    references: tuple[Any, ...]


class Replicas:
    """A teacher's handle over several actors, each of them the whole teacher."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = tuple(actors)
        self.build = Everyone(self.actors, "build")
        self.ready = Everyone(self.actors, "ready")
        self.signals = ShareOut(self.actors, "signals")
        self.evaluate = ShareOut(self.actors, "evaluate")
        self.renew = Everyone(self.actors, "renew")
        self.worked = Everyone(self.actors, "worked")
        self._turns = cycle(self.actors)

    @property
    def head_weights(self) -> Any:
        """The method of the first: all have the same head."""
        return self.actors[0].head_weights

    @property
    def signals_of_parts(self) -> Any:
        """The method of the replica whose turn it is: one answers a whole request."""
        return next(self._turns).signals_of_parts


@dataclass(frozen=True)
class ShareOut:
    """A method whose documents the actors share."""

    actors: tuple[Any, ...]
    method: str

    def remote(self, documents: Sequence[Document]) -> Parts:
        """Ask each actor for its group; one without documents is not asked."""
        shares = zip(self.actors, groups(documents, len(self.actors)), strict=True)
        asked = (getattr(actor, self.method).remote(group) for actor, group in shares if group)
        return Parts(tuple(asked))


@dataclass(frozen=True)
class Everyone:
    """A method that every actor is asked with the same arguments."""

    actors: tuple[Any, ...]
    method: str

    def remote(self, *arguments: Any) -> list[Any]:
        """One reference an actor."""
        return [getattr(actor, self.method).remote(*arguments) for actor in self.actors]


def groups(documents: Sequence[Document], count: int) -> list[Sequence[Document]]:
    """The documents in so many consecutive groups of about equally many bytes, some maybe empty.

    A document goes to the group in whose share of the bytes its middle lies.

    >>> from losses.document import text_document
    >>> texts = [text_document(str(i), "x" * size) for i, size in enumerate([4, 1, 1, 2, 4])]
    >>> [[d.name for d in group] for group in groups(texts, 3)]
    [['0'], ['1', '2', '3'], ['4']]
    """
    sizes = [max(1, len(document.content)) for document in documents]
    ends = list(accumulate(sizes))
    total = sum(sizes)
    owners = [(2 * e - s) * count // (2 * total) for e, s in zip(ends, sizes, strict=True)]
    starts = [sum(owner < group for owner in owners) for group in range(count + 1)]
    return [documents[first:end] for first, end in pairwise(starts)]


def fetch(reference: Any, timeout_s: float) -> list[Any]:
    """What a teacher answered, its parts joined; only the process that reads them may call this.

    Raises:
        ray.exceptions.GetTimeoutError: it is not there in time.
        ray.exceptions.RayActorError: a process that answers died.
    """
    if isinstance(reference, Parts):
        lists = ray.get(list(reference.references), timeout=timeout_s)
        return [row for rows in lists for row in rows]
    found: list[Any] = ray.get(reference, timeout=timeout_s)
    return found


def references_of(answer: Any) -> Iterator[Any]:
    """The references that an answer is made of: one, several, or none of a teacher in a rank."""
    if isinstance(answer, Parts):
        yield from answer.references
    elif isinstance(answer, list):
        yield from answer
    elif answer is not None:
        yield answer


def joined(answer: Any, found: Mapping[Any, Any]) -> Any:
    """An answer with what its references turned out to be in their places.

    Args:
        answer: what a handle gave.
        found: the values by reference.
    """
    if isinstance(answer, Parts):
        return [row for reference in answer.references for row in found[reference]]
    if isinstance(answer, list):
        return [found[reference] for reference in answer]
    return found[answer]


def processes(handle: Any) -> tuple[Any, ...]:
    """The actors behind a handle."""
    if isinstance(handle, InTurn):
        return (handle.handle,)
    return handle.actors if isinstance(handle, Replicas) else (handle,)
