"""The command ``tutelage methods``: what there is to choose from."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.printing import print_fields

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def methods(as_json: AsJson = False) -> None:
    """The distillation methods: options, source, unit, and bytes that a teacher sends."""
    from orchestrator.config.messages import as_written
    from orchestrator.config.method_table import method_table

    table = [asdict(entry) for entry in method_table()]
    if as_json:
        typer.echo(json.dumps(table, indent=2, ensure_ascii=False))
        return
    for entry in table:
        options = entry.pop("options")
        print_fields(entry, as_json=False)
        for option in options:
            default = (
                "required" if option["required"] else f"default {as_written(option['default'])}"
            )
            typer.echo(f"  {option['name']}: {option['type']}; {default}")
            typer.echo(f"      {option['description']}")
        typer.echo()
