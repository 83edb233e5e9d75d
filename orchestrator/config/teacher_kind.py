"""Kinds of teachers, and whether one can tell what the methods that it feeds read."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from losses import methods
from losses.base import Method
from losses.needs import SERVES, Need, listed
from orchestrator.config.method import MethodConfig
from orchestrator.config.problems import Problem

BUILT = ("hf", "self", "openai", "cache")


def unserved(entry: Mapping[str, Any]) -> Iterator[Problem]:
    """Methods of a teacher's entry, as it is written, that its kind cannot serve.

    Entries that are wrong otherwise are left to their own checks.
    """
    kind = entry.get("kind", BUILT[0])
    if not isinstance(kind, str) or kind not in SERVES:
        return
    entries = entry.get("methods")
    for place, written in enumerate(entries if isinstance(entries, list | tuple) else ()):
        try:
            config = MethodConfig.model_validate(written)
        except ValidationError:
            continue
        if lacking := config.method.needs - SERVES[kind]:
            yield Problem(("methods", place), _refusal(config, kind, lacking))


def _refusal(config: MethodConfig, kind: str, lacking: frozenset[Need]) -> str:
    if config.method.reads <= SERVES[kind]:
        needs = f"with these options {config.name} needs"
    else:
        needs = f"{config.name} needs"
    return (
        f'{needs} {" and ".join(listed(lacking))}, but a teacher of kind "{kind}" tells '
        f"{' and '.join(listed(SERVES[kind]))} alone; expected one of: "
        f'{", ".join(served_methods(kind))}, or kind "{BUILT[0]}"'
    )


def served_methods(kind: str) -> list[str]:
    """The methods that such a teacher can serve, some of them with other options than the default.

    >>> served_methods("openai")[0]
    'alm (not with its default options)'
    """
    named = [(name, _default(name)) for name in methods.method_names()]
    return [
        name if method.needs <= SERVES[kind] else f"{name} (not with its default options)"
        for name, method in named
        if method.reads <= SERVES[kind]
    ]


def _default(name: str) -> Method:
    return methods.method_class(name)()
