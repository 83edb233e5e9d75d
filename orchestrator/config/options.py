"""Options that a class of ``losses/`` takes: a pydantic dataclass, built from YAML."""

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from orchestrator.config.messages import problems_of, unknown
from orchestrator.config.problems import Problem, Problems, raise_if_any
from orchestrator.config.schema import fields_of

Kind = TypeVar("Kind")


def build(
    kind: type[Kind], options: dict[str, Any], others: Iterable[str] = (), *, levels_up: int = 0
) -> Kind:
    """The object with its options from YAML, types unchanged (a number in quotes is refused).

    Args:
        kind: a pydantic dataclass.
        options: its arguments by name.
        others: keys that may stand beside them, named where an unknown one is refused.
        levels_up: see ``Problems``.

    Raises:
        Problems: unknown or wrong options.
    """
    known = list(fields_of(kind))
    names = [*others, *known]
    raise_if_any(
        (Problem((key,), unknown("key", key, names)) for key in options if key not in known),
        levels_up,
    )
    content = to_json(options, inf_nan_mode="constants")
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise Problems(problems_of(error, kind), levels_up=levels_up) from error
