"""From a run file and overrides to a checked `RunConfig`, and back to YAML."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from orchestrator.config.messages import path_text, problems_of
from orchestrator.config.overrides import apply_overrides
from orchestrator.config.run import RunConfig
from orchestrator.config.section import Section
from orchestrator.config.shipped import find_run_file
from orchestrator.config.yaml_text import dump_yaml, read_yaml
from orchestrator.errors import ConfigError

File = TypeVar("File", bound=Section)


def load_run(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run file, its own or a shipped one, with overrides, and check all of it.

    Args:
        path: the file, or the name of a shipped one.
        overrides: ``key.sub=value``, ``teachers.NAME.key=value`` and
            ``teachers.NAME.methods.METHOD.key=value``, values in YAML.

    Raises:
        ConfigError: something is wrong; the text lists every problem, one a line.
    """
    file = find_run_file(path)
    return parse_run(apply_overrides(read_mapping(file, RunConfig), overrides), str(file))


def read_mapping(file: Path, kind: type[Section]) -> dict[str, Any]:
    """The data of a YAML file that is to become a section of this kind; not checked.

    Raises:
        ConfigError: it is not YAML, or no mapping.
    """
    data = read_yaml(file)
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: holds no mapping; expected {', '.join(kind.model_fields)}")
    return data


def parse_run(data: object, source: str = "run") -> RunConfig:
    """Check the data of a run file that came from YAML.

    Raises:
        ConfigError: something is wrong; ``source`` heads the list of problems.
    """
    return parse(RunConfig, data, source)


def parse(kind: type[File], data: object, source: str) -> File:
    """Check data that came from YAML.

    Raises:
        ConfigError: something is wrong; ``source`` heads the list of problems.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, kind)
        lines = [f"  {_line(path_text(entry.location, data), entry.text)}" for entry in problems]
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
        raise ConfigError("\n".join([f"{source}: {count}", *lines])) from error


def _line(path: str, text: str) -> str:
    line = f"{path}: {text}" if path else text
    return line.replace("\n", "\\n")


def to_yaml(config: Section) -> str:
    """The resolved file: every key with its value; it loads to the same configuration."""
    return dump_yaml(config.model_dump(mode="json"))
