"""Reads and writes YAML strictly.

Scalars follow YAML 1.2, so that ``1e-3`` is a number and ``no`` is text. Repeated keys are
refused, and so are aliases, which can blow a small file up without bound.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import ConfigError

LARGEST_FILE = 256 * 1024
"""Longest run file, in bytes."""

FLOAT = re.compile(
    r"[-+]?((\.\d+|\d+\.\d*)([eE][-+]?\d+)?|\d+[eE][-+]?\d+)$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)

SCALARS: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), tuple("tTfF")),
    ("int", re.compile(r"[-+]?(0|[1-9][\d_]*)$"), tuple("-+0123456789")),
    ("float", FLOAT, tuple("-+.0123456789")),
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ("~", "n", "N", "")),
)
"""Types of a plain scalar: name, pattern, first characters; the first that fits counts."""

Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def _resolvers() -> Resolvers:
    """PyYAML's table of these types, by first character."""
    table: Resolvers = {}
    for name, pattern, first_characters in SCALARS:
        for character in first_characters:
            table.setdefault(character, []).append((f"tag:yaml.org,2002:{name}", pattern))
    return table


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2, without repeated keys and aliases."""

    yaml_implicit_resolvers = _resolvers()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not supported; write the value out",
                problem_mark=self.get_mark(),
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in first_lines:
                raise yaml.MarkedYAMLError(
                    problem=f'key "{key.value}" is already in line {first_lines[key.value]}',
                    problem_mark=key.start_mark,
                )
            if isinstance(key, yaml.ScalarNode):
                first_lines[key.value] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes text which YAML 1.1 or 1.2 would read as something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way
        character: [*resolvers, *_resolvers().get(character, [])]
        for character, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: the text is not YAML; says in which line of ``source``.

    >>> parse_yaml("{rate: 1e-3, answer: no}", "example")
    {'rate': 0.001, 'answer': 'no'}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{source}: not YAML: {reason}") from error


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ConfigError: the file cannot be read, is too large, or is not YAML in UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise ConfigError(
            f"{path}: {len(content)} bytes is too large for a run file; expected at most "
            f"{LARGEST_FILE} bytes"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected text") from error
    return parse_yaml(text, str(path))


def dump_yaml(value: object) -> str:
    """A value as YAML that `parse_yaml` reads back unchanged, keys in their order.

    >>> print(dump_yaml({"rate": 0.001, "text": "1e-3", "list": [1]}), end="")
    rate: 0.001
    text: '1e-3'
    list:
      - 1
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
