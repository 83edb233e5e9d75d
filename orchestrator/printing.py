"""How a command prints its result."""

import json

import typer


def print_fields(fields: dict[str, object], as_json: bool) -> None:
    """Print a result as JSON, or one name and value a line."""
    if as_json:
        typer.echo(json.dumps(fields, indent=2))
        return
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        typer.echo(f"{name:<{width}}  {_as_text(value)}")


def _as_text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_as_text(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
