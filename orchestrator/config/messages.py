"""Turns pydantic's errors into one line each: path, what is wrong, what was expected."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from orchestrator.config.problems import Location, Problem, Problems
from orchestrator.config.schema import describe, keys_at, locate

LONGEST_VALUE = 60

NAMED = ("teachers", "arms")
"""Lists whose entries are shown with their names."""


def unknown(noun: str, name: object, known: Iterable[str]) -> str:
    """Say that a name is unknown, with the nearest known one, or all of them.

    >>> unknown("key", "max_step", ["max_steps", "seed"])
    'unknown key, did you mean "max_steps"?'
    >>> unknown("key", "x", ["max_steps", "seed"])
    'unknown key; expected one of: max_steps, seed'
    """
    names = list(known)
    if close := difflib.get_close_matches(str(name), names, n=1):
        return f'unknown {noun}, did you mean "{close[0]}"?'
    if not names:
        return f"unknown {noun}; none is known here"
    return f"unknown {noun}; expected one of: {', '.join(names)}"


def as_written(value: object) -> str:
    """A value roughly as YAML has it, cut to one short line.

    >>> as_written(None), as_written(True), as_written("ten")
    ('null', 'true', '"ten"')
    """
    text = json.dumps(value, default=str, ensure_ascii=False)
    return _cut(text)


def path_text(location: Location, data: object) -> str:
    """A location as a YAML path; a teacher or an arm also by its name.

    >>> path_text(("teachers", 0, "weight"), {"teachers": [{"name": "gemma"}]})
    'teachers[0] (gemma).weight'
    """
    text = ""
    for step in location:
        data = _entry(data, step)
        if isinstance(step, int):
            name = _entry(data, "name") if text in NAMED else None
            text += f"[{step}]" + (f" ({_cut(name)})" if isinstance(name, str) else "")
        else:
            text += f".{_cut(step)}" if text else _cut(str(step))
    return text


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _entry(data: object, step: str | int) -> object:
    if isinstance(data, Mapping):
        return data.get(step)
    if isinstance(data, Sequence) and isinstance(step, int) and step < len(data):
        return data[step]
    return None


def problems_of(error: ValidationError, kind: Any) -> list[Problem]:
    """Every problem that pydantic found in a value of type ``kind``."""
    details = error.errors()
    wrong = {detail["loc"] for detail in details}
    return [
        problem
        for detail in details
        if not (detail["type"] == "too_short" and _holds_any(detail["loc"], wrong))
        for problem in _problems(detail, kind)
    ]


def _holds_any(location: Location, others: Iterable[Location]) -> bool:
    """True if a location lies below this one: a list counts as short once an entry is wrong."""
    depth = len(location)
    return any(len(other) > depth and other[:depth] == location for other in others)


def _problems(detail: Mapping[str, Any], kind: Any) -> Iterator[Problem]:
    location: Location = detail["loc"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Problems):
        above = location[: len(location) - cause.levels_up]
        yield from (Problem(above + entry.location, entry.text) for entry in cause.problems)
    else:
        yield Problem(location, _sentence(detail, cause, kind))


def _sentence(detail: Mapping[str, Any], cause: object, kind: Any) -> str:
    location: Location = detail["loc"]
    if isinstance(cause, ValueError):
        return str(cause)
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown("key", location[-1], keys_at(kind, location[:-1]))
    found = locate(kind, location)
    expected = describe(*found) if found else str(detail["msg"])
    if detail["type"] in ("missing", "missing_argument"):
        return f"missing; expected {expected}"
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        expected += ", in quotes"
    return f"{as_written(detail['input'])} is not allowed; expected {expected}"
