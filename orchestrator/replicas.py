"""Several processes that answer as one teacher.

The documents of a request are dealt in consecutive groups, always the same ones for the same
request, so a run can be repeated bit for bit. When a replica is gone for good another one reads its
groups: they stay as they are, and so do the answers. Answers stay where they are: only references
pass through here.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count, pairwise
from typing import Any

import ray
from ray.exceptions import RayActorError

from losses.document import Document
from orchestrator.in_turn import InTurn

KNOWN_S = 10.0
"""Seconds in which Ray must say which replica died."""


@dataclass(frozen=True)
class Parts:
    """References of lists that together are one list, in this order.

    ``readers`` has the number of the replica that was asked for each.
    """

    references: tuple[Any, ...]
    readers: tuple[int, ...] = ()


class Replicas:
    """A teacher's handle over several actors, each of them the whole teacher."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = tuple(actors)
        self.readers = list(range(len(actors)))
        """The number of the actor that reads each group."""
        self.ready = Everyone(self, "ready")
        self.signals = ShareOut(self, "signals")
        self.evaluate = ShareOut(self, "evaluate")
        self.renew = Everyone(self, "renew")
        self.worked = Everyone(self, "worked")
        self._turns = count()

    @property
    def living(self) -> tuple[Any, ...]:
        """The actors that are not known to be gone."""
        return tuple(self.actors[reader] for reader in sorted(set(self.readers)))

    @property
    def head_weights(self) -> Any:
        """The method of the first: all have the same head."""
        return self.living[0].head_weights

    @property
    def signals_of_parts(self) -> Any:
        """The method of the replica whose turn it is: one answers a whole request."""
        return self.living[next(self._turns) % len(self.living)].signals_of_parts

    def stand_in(self) -> int:
        """Let the living read for one that is gone; gives how many were lost since the last call.

        0 also if nobody is left to stand in.
        """
        readers = sorted(set(self.readers))
        gone = {readers[place] for place in _gone([self.actors[reader] for reader in readers])}
        left = [reader for reader in readers if reader not in gone]
        if not left:
            return 0
        for group, reader in enumerate(self.readers):
            if reader in gone:
                self.readers[group] = left[group % len(left)]
        return len(gone)

    def again(self, answer: Parts, documents: Sequence[Document]) -> Parts:
        """The same answer; what a lost replica was asked for is asked of who stands in for it.

        Args:
            answer: what ``signals`` gave.
            documents: those it was asked about.
        """
        references, readers = list(answer.references), list(answer.readers)
        for place, (reader, group) in enumerate(_dealt(documents, self.readers)):
            if readers[place] not in self.readers:
                references[place] = self.actors[reader].signals.remote(group)
                readers[place] = reader
        return replace(answer, references=tuple(references), readers=tuple(readers))


@dataclass(frozen=True)
class ShareOut:
    """A method whose documents the actors share."""

    replicas: Replicas
    method: str

    def remote(self, documents: Sequence[Document]) -> Parts:
        """Ask for each group whoever reads it; a group without documents is not asked for."""
        dealt = _dealt(documents, self.replicas.readers)
        actors = self.replicas.actors
        asked = tuple(getattr(actors[reader], self.method).remote(group) for reader, group in dealt)
        return Parts(asked, tuple(reader for reader, _ in dealt))


@dataclass(frozen=True)
class Everyone:
    """A method that every living actor is asked with the same arguments."""

    replicas: Replicas
    method: str

    def remote(self, *arguments: Any) -> list[Any]:
        """One reference an actor."""
        return [getattr(actor, self.method).remote(*arguments) for actor in self.replicas.living]


def _dealt(
    documents: Sequence[Document], readers: Sequence[int]
) -> list[tuple[int, Sequence[Document]]]:
    """The groups that have documents, each with its reader."""
    shares = zip(readers, groups(documents, len(readers)), strict=True)
    return [(reader, group) for reader, group in shares if group]


def _gone(actors: Sequence[Any]) -> set[int]:
    """The places of those that are gone for good, once Ray knows of one; it is waited for.

    Whoever is busy, or is being started again, does not answer yet.
    """
    waiting = {actor.ready.remote(): place for place, actor in enumerate(actors)}
    deadline = time.monotonic() + KNOWN_S
    while waiting and (left := deadline - time.monotonic()) > 0:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=left)
        answered = {reference: waiting.pop(reference) for reference in ready}
        if gone := {place for reference, place in answered.items() if _failed(reference)}:
            return gone
    return set()


def _failed(reference: Any) -> bool:
    try:
        ray.get(reference)
    except RayActorError:
        return True
    return False


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
    return handle.living if isinstance(handle, Replicas) else (handle,)
