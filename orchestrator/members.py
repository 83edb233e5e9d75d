"""The members of an ensemble: models by reference, or the teachers of a run file."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.config import load_run
from orchestrator.errors import ConfigError
from orchestrator.loading import source_of
from orchestrator.sources import teacher_source
from teachers.source import ModelSource

RUN_FILE_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Member:
    """A model of an ensemble and its weight, which counts relative to the others'."""

    name: str
    source: ModelSource
    weight: float = 1.0
    start_token: str | None = None


def members_of(references: Sequence[str], weights: Sequence[float], dtype: str) -> list[Member]:
    """The members, with names that differ.

    Args:
        references: folders, hub ids, ``asset:NAME``, or run files: all their teachers.
        weights: one for each member, above 0; none: those of the run files, 1 for a model.
        dtype: number format of the weights of models that are not from a run file.

    Raises:
        ConfigError: a reference names nothing, or the weights are not one for each.
    """
    found = [member for reference in references for member in _members(reference, dtype)]
    if weights and (len(weights) != len(found) or not all(0 < w < math.inf for w in weights)):
        raise ConfigError(
            f"--weight was given as {', '.join(map(str, weights))}; expected {len(found)} numbers "
            f"above 0, one for each of {', '.join(member.name for member in found)}"
        )
    names = _distinct([member.name for member in found])
    chosen = weights or [member.weight for member in found]
    return [
        replace(member, name=name, weight=float(weight))
        for member, name, weight in zip(found, names, chosen, strict=True)
    ]


def _members(reference: str, dtype: str) -> Iterator[Member]:
    if not reference.endswith(RUN_FILE_ENDINGS):
        yield Member(reference, source_of(reference, dtype))
        return
    config = load_run(reference, [])
    for teacher in config.teachers:
        if not isinstance(teacher.weight, int | float):
            raise ConfigError(
                f"{reference}: teachers.{teacher.name}.weight changes over the steps; expected a "
                "number for an ensemble: name the models, each with a --weight"
            )
        weight = float(teacher.weight)
        if config.mixture.ensemble is not None:  # as in training
            weight *= teacher.methods[0].weight
        source = teacher_source(teacher, config.student)
        yield Member(teacher.name, source, weight, teacher.start_token)


def _distinct(names: Sequence[str]) -> list[str]:
    """A name that comes again gets a number.

    >>> _distinct(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    found: list[str] = []
    for index, name in enumerate(names):
        before = list(names[:index]).count(name)
        found.append(f"{name} ({before + 1})" if before else name)
    return found
