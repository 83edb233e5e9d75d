"""Reads the schema: which keys a mapping has, and which values a key takes, in words."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from orchestrator.config.problems import Location
from orchestrator.config.section import Expected, OtherKeys

SCALARS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}

BOUNDS: dict[type, Callable[[Any], str]] = {
    Gt: lambda bound: f"above {bound.gt}",
    Ge: lambda bound: f"at least {bound.ge}",
    Lt: lambda bound: f"below {bound.lt}",
    Le: lambda bound: f"at most {bound.le}",
    MinLen: lambda bound: "not empty",
}


def fields_of(kind: object) -> dict[str, FieldInfo]:
    """Keys of a section or of a method's options; empty for every other type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return dict(kind.model_fields)
    if isinstance(kind, type) and is_pydantic_dataclass(kind):
        fields = kind.__pydantic_fields__
        return {name: field for name, field in fields.items() if field.init is not False}
    return {}


def other_keys(field: FieldInfo) -> str | None:
    """What the field stands for, if it is not a key itself."""
    return next((note.text for note in field.metadata if isinstance(note, OtherKeys)), None)


def _flatten(metadata: tuple[Any, ...]) -> list[Any]:
    """Annotations of a type, those inside a ``Field(...)`` included."""
    flat: list[Any] = []
    for entry in metadata:
        flat.extend(entry.metadata if isinstance(entry, FieldInfo) else [entry])
    return flat


def _unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Bare type, its annotations, and whether null is allowed too."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        bare, more, optional = _unwrap(inner)
        return bare, [*more, *_flatten(tuple(metadata))], optional
    if get_origin(annotation) in (Union, types.UnionType):
        arms = [arm for arm in get_args(annotation) if arm is not types.NoneType]
        if len(arms) == 1:
            bare, metadata, _ = _unwrap(arms[0])
            return bare, metadata, True
    return annotation, [], False


def _bare(annotation: Any) -> str:
    """A type in words, without its bounds."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(
            f'"{value}"' if isinstance(value, str) else f"{value}" for value in arguments
        )
    if get_origin(annotation) is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list (each: {describe(arguments[0])})"
        return f"a list of {len(arguments)} ({'; '.join(map(describe, arguments))})"
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in arguments if arm is not types.NoneType)
    if fields := fields_of(annotation):
        names = (other_keys(field) or name for name, field in fields.items())
        return f"a mapping ({', '.join(names)})"
    return SCALARS.get(annotation, "a mapping" if get_origin(annotation) is dict else "a value")


def describe(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Which values a key takes, in words.

    >>> describe(int | None, (Ge(ge=1),))
    'a whole number, at least 1, or null'
    >>> describe(Literal["auto", "cpu"]), describe(tuple[float, ...])
    ('"auto" or "cpu"', 'a list (each: a number)')
    """
    bare, inner, optional = _unwrap(annotation)
    notes = [*inner, *_flatten(metadata)]
    words = next((note.text for note in notes if isinstance(note, Expected)), None)
    if words is None:
        bounds = [BOUNDS[type(note)](note) for note in notes if type(note) in BOUNDS]
        words = ", ".join([_bare(bare), *bounds])
    if not optional:
        return words
    return f"{words}{',' if ',' in words else ''} or null"


def element_of(annotation: Any) -> tuple[Any, bool]:
    """Bare type of a key, or of the entries if it is a list; and whether it is a list."""
    kind = _unwrap(annotation)[0]
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        return _unwrap(get_args(kind)[0])[0], True
    return kind, False


def keys_at(kind: Any, location: Location) -> list[str]:
    """Keys of the mapping at a location below ``kind``."""
    found = locate(kind, location)
    return list(fields_of(_unwrap(found[0])[0])) if found else []


def locate(kind: Any, location: Location) -> tuple[Any, tuple[Any, ...]] | None:
    """Type and annotations of the value at a location below ``kind``; None if there is none."""
    metadata: tuple[Any, ...] = ()
    for step in location:
        kind = _unwrap(kind)[0]
        fields = fields_of(kind)
        if step in fields:
            field = fields[str(step)]
            kind, metadata = field.annotation, tuple(field.metadata)
        elif get_origin(kind) is tuple and isinstance(step, int):
            entries = get_args(kind)
            kind, metadata = entries[0 if entries[-1] is Ellipsis else step], ()
        else:
            return None
    return kind, metadata
