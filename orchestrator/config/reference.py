"""Writes the reference of the run file from the schema: every key with type, default and meaning.

Run as ``python -m orchestrator.config.reference``; the meaning is the text under each field.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from losses import methods
from orchestrator.config.messages import as_written
from orchestrator.config.run import RunConfig
from orchestrator.config.schema import describe, element_of, fields_of, other_keys

INTRODUCTION = """\
# The run file

Every key of the YAML file that `tutelage train` reads, made from the schema by
`python -m orchestrator.config.reference`. Unknown keys, repeated keys and values of another type
are refused. Scalars follow YAML 1.2 (`1e-3` is a number, `no` is text); there are no aliases.
On the command line any key can be set with `key.sub=value`, a teacher's with
`teachers.NAME.key=value`, a method's with `teachers.NAME.methods.METHOD.key=value`.
`tutelage show RUN.yaml` prints the file with every default filled in.
"""

TABLE_HEAD = "| key | value | default | meaning |\n|---|---|---|---|\n"


def reference() -> str:
    """The whole page in Markdown."""
    parts = [INTRODUCTION]
    plain = []
    for name, field in RunConfig.model_fields.items():
        rows = list(_rows(name, field))
        if len(rows) == 1:
            plain += rows
            continue
        parts.append(f"## `{name}`\n\n{_meaning(field)}\n\n{_table(rows)}")
    parts.append(f"## Other keys\n\n{_table(plain)}")
    parts.append("## Options of the methods\n\nKeys beside `name` and `weight`, by method.\n")
    parts += [_method_part(name) for name in methods.method_names()]
    return "\n".join(parts)


def _method_part(name: str) -> str:
    kind = methods.method_class(name)
    summary, meanings = read_docstring(inspect.getdoc(kind) or "")
    rows = [_row(key, field, meanings.get(key, "")) for key, field in fields_of(kind).items()]
    return f"### `{name}`\n\n{summary}\n\n{_table(rows) if rows else 'No options.'}"


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    r"""First line of a Google-style docstring, and what its ``Args`` say of each argument.

    >>> read_docstring("Adds.\n\nArgs:\n    a: one,\n        or two.\n    b: more.\n")
    ('Adds.', {'a': 'one, or two.', 'b': 'more.'})
    """
    summary, _, rest = text.partition("\n")
    part = re.search(r"^Args:\n((?: {4}.*\n?|\n)*)", rest, re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", part[1] if part else "", re.MULTILINE)
    return _prose(summary), {name: _prose(meaning) for name, meaning in entries}


def _rows(path: str, field: FieldInfo) -> Iterator[str]:
    """Rows of a key and of the keys below it."""
    kind, is_list = element_of(field.annotation)
    inner = fields_of(kind)
    if not inner or is_list or field.default is None:
        yield _row(path, field, _meaning(field))
    for name, entry in inner.items():
        if words := other_keys(entry):
            yield f"| `{path}[].…` | | | {words}, listed below |\n"
        else:
            yield from _rows(f"{path}{'[]' if is_list else ''}.{name}", entry)


def _row(path: str, field: FieldInfo, meaning: str) -> str:
    value = describe(field.annotation, tuple(field.metadata))
    default = "required" if field.is_required() else f"`{_default(field)}`"
    cells = (f"`{path}`", value, default, meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    return as_written(value)


def _meaning(field: FieldInfo) -> str:
    return _prose(field.description or "")


def _prose(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _table(rows: list[str]) -> str:
    return TABLE_HEAD + "".join(rows)


def write_reference(path: Path) -> None:
    """Write the page to a file."""
    path.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/run_file.md"))
