"""Reads and writes YAML strictly.

Scalars follow YAML 1.2, so that ``1e-3`` is a number and ``no`` is text. Refused are repeated
keys, keys that are not text, tags, whole numbers beyond 64 bits, control characters, deep nesting,
and aliases, which can blow a small file up without bound.
"""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from orchestrator.errors import ConfigError

LARGEST_FILE = 256 * 1024
"""Longest run file, in bytes."""

DEEPEST = 50
"""Levels of nesting that a run file may have."""

LARGEST_NUMBER = 2**63 - 1

FLOAT = re.compile(
    r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters and halves of surrogate pairs, which only an escape can bring in."""

SCALARS: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), tuple("tTfF")),
    ("int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), tuple("-+0123456789")),
    ("float", FLOAT, tuple("-+.0123456789")),
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ("~", "n", "N", "")),
)
"""Types of a plain scalar: name, pattern, first characters; the first that fits counts."""

TEXT = "tag:yaml.org,2002:str"

Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def _resolvers() -> Resolvers:
    """PyYAML's table of these types, by first character."""
    table: Resolvers = {}
    for name, pattern, first_characters in SCALARS:
        for character in first_characters:
            table.setdefault(character, []).append((f"tag:yaml.org,2002:{name}", pattern))
    return table


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2, and without what the module refuses."""

    yaml_implicit_resolvers = _resolvers()
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            _refuse("aliases are not supported; write the value out", self.get_mark())
        elif event.tag is not None:
            _refuse(f"tags are not supported, found {event.tag}", event.start_mark)
        if self.depth > DEEPEST:
            _refuse(f"nested too deeply; expected at most {DEEPEST} levels", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if found := UNPRINTABLE.search(str(node.value)):
            _refuse(f"text holds the character U+{ord(found[0]):04X}", node.start_mark)
        return super().construct_scalar(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        digits = node.value.replace("_", "").lstrip("+-")
        if len(digits) > len(str(LARGEST_NUMBER)) or int(digits) > LARGEST_NUMBER:
            _refuse(
                f"{node.value[:20]}… has {len(digits)} digits; expected a whole number up to "
                f"{LARGEST_NUMBER}",
                node.start_mark,
            )
        return int(super().construct_yaml_int(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag != TEXT:
                shown = key.value if isinstance(key, yaml.ScalarNode) else "of several values"
                _refuse(f"key {shown} is not text; put it in quotes", key.start_mark)
            if key.value in first_lines:
                _refuse(
                    f'key "{key.value}" is already in line {first_lines[key.value]}',
                    key.start_mark,
                )
            first_lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refuse(problem: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


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
        ConfigError: the text is not YAML, or uses what is refused; says where in ``source``.

    >>> parse_yaml("{rate: 1e-3, answer: no}", "example")
    {'rate': 0.001, 'answer': 'no'}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: {error.problem}") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
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
