"""Overrides from the command line: ``key.sub=value``, the value in YAML.

Entries of ``teachers`` and of a teacher's ``methods`` are found by name:
``teachers.gemma.methods.alm.temperature=100``.
"""

from collections.abc import Iterable
from typing import Any

from orchestrator.config.messages import unknown
from orchestrator.config.yaml_text import parse_yaml
from orchestrator.errors import ConfigError

NAMED_LISTS = ("teachers", "methods", "arms")
"""Lists whose entries are found by their name."""


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The run file's data with the overrides put in, in order; ``data`` stays as it is.

    Keys are not checked here: the schema refuses unknown ones, wherever they come from.

    Raises:
        ConfigError: an override has no ``=``, its value is not YAML, or it leads nowhere.

    >>> apply_overrides({"train": {"seed": 0}}, ["train.seed=7"])
    {'train': {'seed': 7}}
    """
    for override in overrides:
        path, equals, value = override.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise ConfigError(f'override "{override}": expected key.sub=value')
        data = _put(data, keys, parse_yaml(value, f'override "{override}"'), override)
    return data


def _put(mapping: dict[str, Any], keys: list[str], value: Any, override: str) -> dict[str, Any]:
    """A copy of the mapping with the value at the path."""
    key, *rest = keys
    if not rest:
        return mapping | {key: value}
    inner = mapping.get(key)
    if inner is None:
        inner = {}
    if key in NAMED_LISTS and isinstance(inner, list):
        return mapping | {key: _put_in_list(inner, key, rest, value, override)}
    if not isinstance(inner, dict):
        raise ConfigError(
            f'override "{override}": {key} is {inner!r}, not a mapping; expected {key}=value'
        )
    return mapping | {key: _put(inner, rest, value, override)}


def _put_in_list(
    entries: list[Any], key: str, keys: list[str], value: Any, override: str
) -> list[Any]:
    """A copy of the list with the value put into the entry of that name."""
    name, *rest = keys
    names = [str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry]
    noun = key.removesuffix("s")
    if name not in names:
        raise ConfigError(f'override "{override}": {unknown(noun, name, names)}')
    if not rest:
        raise ConfigError(f'override "{override}": expected {key}.{name}.key=value')
    return [
        _put(entry, rest, value, override)
        if isinstance(entry, dict) and str(entry.get("name")) == name
        else entry
        for entry in entries
    ]
