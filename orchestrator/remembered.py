"""What teachers said once about each document, kept as references and served like live teachers.

A signal knows no student, so students that read the same text can share it. The object store holds
the signals, or spills them to disk; the driver opens none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from losses.base import Method
from losses.document import Document
from orchestrator.config import RunConfig

GROUP = 32
"""Documents that a teacher is asked for in one call, always the same ones together."""

Part: TypeAlias = tuple[Method, ...]
"""Methods of a teacher that one arm needs, in its order."""


@dataclass(frozen=True)
class Remote:
    """Something that is called as ``name.remote(...)``, like a method of an actor."""

    remote: Callable[..., Any]


@dataclass(frozen=True)
class RememberedTeacher:
    """Answers like a teacher's actor; a document's signals are found by its name."""

    signals: Remote
    head_weights: Remote
    worked: Remote


@dataclass(frozen=True)
class Memory:
    """References of signals, by teacher, part and document, and of heads, by teacher.

    ``answered`` has, for each group of documents, what comes by teacher once its signals are there.
    """

    signals: Mapping[str, Sequence[tuple[Part, Mapping[str, Any]]]]
    heads: Mapping[str, Any]
    answered: Sequence[Mapping[str, Any]] = ()

    def teachers(self, config: RunConfig) -> dict[str, RememberedTeacher]:
        """What stands in for the teachers of an arm.

        Raises:
            KeyError: its methods were not asked for.
        """
        return {
            teacher.name: self._teacher(teacher.name, tuple(e.method for e in teacher.methods))
            for teacher in config.teachers
        }

    def _teacher(self, name: str, part: Part) -> RememberedTeacher:
        known = [found for other, found in self.signals[name] if other == part]
        if not known:
            raise KeyError(f"{name} was not asked for {part}")
        (found,) = known
        return RememberedTeacher(
            signals=Remote(lambda documents: [found[document.name] for document in documents]),
            head_weights=Remote(lambda: self.heads[name]),
            worked=Remote(lambda: None),  # it said everything before
        )


def groups_of(documents: Sequence[Document]) -> list[Sequence[Document]]:
    """The documents in groups of ``GROUP``."""
    return [documents[first : first + GROUP] for first in range(0, len(documents), GROUP)]


def ask(
    teachers: Mapping[str, Any],
    parts: Mapping[str, Sequence[Part]],
    groups: Sequence[Sequence[Document]],
) -> Memory:
    """Ask each teacher once for each document; wait for ``answered`` before they are stopped.

    Args:
        teachers: actors, each built with the methods that ``methods_of_parts`` gives for its parts.
        parts: what of each teacher's answer is kept together.
        groups: the documents that are asked for in one call; what a teacher says of a document
            may depend on its group in the last bits.
    """
    signals: dict[str, list[tuple[Part, dict[str, Any]]]] = {
        name: [(part, {}) for part in parts[name]] for name in teachers
    }
    heads = {
        name: teacher.head_weights.remote()
        for name, teacher in teachers.items()
        if any(method.needs_teacher_head for method in methods_of_parts(parts[name]))
    }
    answered = [
        {name: _ask(teacher, group, signals[name]) for name, teacher in teachers.items()}
        for group in groups
    ]
    return Memory(signals, heads, answered)


def _ask(
    teacher: Any, group: Sequence[Document], signals: Sequence[tuple[Part, dict[str, Any]]]
) -> Any:
    """Put a group's references into ``signals``; gives what tells that they are there."""
    methods = methods_of_parts([part for part, _ in signals])
    places = [[methods.index(method) for method in part] for part, _ in signals]
    count = 1 + len(group) * len(signals)
    done, *found = teacher.signals_of_parts.options(num_returns=count).remote(group, places)
    answers = iter(found)
    for document in group:
        for _, kept in signals:
            kept[document.name] = next(answers)
    return done


def methods_of_parts(parts: Sequence[Part]) -> list[Method]:
    """Every method of some parts once."""
    methods: list[Method] = []
    for method in (method for part in parts for method in part):
        if method not in methods:
            methods.append(method)
    return methods
