"""The methods as a table: their options with type, default and meaning, source, unit, size."""

import inspect
import re
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from losses import methods
from losses.base import Method
from losses.needs import listed
from orchestrator.config.reference import read_docstring
from orchestrator.config.schema import describe, fields_of


@dataclass(frozen=True)
class OptionEntry:
    """One option of a method."""

    name: str
    type: str
    """Which values it takes, in words."""
    default: Any
    required: bool
    description: str


@dataclass(frozen=True)
class MethodEntry:
    """One method of ``losses/methods``."""

    name: str
    description: str
    source: str
    """The paper it comes from."""
    unit: str
    """What its loss is a sum over."""
    bytes_per_token: str
    """What a teacher sends for each of its tokens."""
    needs: tuple[str, ...]
    """What a teacher must be able to tell, with the default options."""
    options: tuple[OptionEntry, ...]


def method_table() -> list[MethodEntry]:
    """Every method, by name."""
    return [_entry(name, methods.method_class(name)) for name in methods.method_names()]


def _entry(name: str, kind: type[Method]) -> MethodEntry:
    summary, meanings = read_docstring(inspect.getdoc(kind) or "")
    return MethodEntry(
        name=name,
        description=summary,
        source=_source(kind),
        unit=kind.unit,
        bytes_per_token=kind.bytes_per_token,
        needs=tuple(listed(kind().needs)),
        options=tuple(
            _option(key, field, meanings.get(key, "")) for key, field in fields_of(kind).items()
        ),
    )


def _option(name: str, field: FieldInfo, description: str) -> OptionEntry:
    required = field.is_required()
    return OptionEntry(
        name=name,
        type=describe(field.annotation, tuple(field.metadata)),
        default=None if required else field.get_default(call_default_factory=True),
        required=required,
        description=description,
    )


def _source(kind: type[Method]) -> str:
    """What follows ``Source:`` in the method's docstring, or in that of its file."""
    texts = (inspect.getdoc(kind) or "", inspect.getdoc(inspect.getmodule(kind)) or "")
    found = (re.search(r"^Source: *(.+?)(?:\n\n|\Z)", text, re.M | re.S) for text in texts)
    return next((" ".join(match[1].replace("``", "`").split()) for match in found if match), "")
