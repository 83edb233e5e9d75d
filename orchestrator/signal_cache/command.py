"""The command ``tutelage capture``: thin, as the other commands are."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.explained import explained
from orchestrator.printing import print_fields


def capture(
    run_file: Annotated[
        str, typer.Argument(metavar="RUN.yaml", help="A run file, or the name of a shipped one.")
    ],
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="NAME", help="Whose signals to keep.")
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="The cache; a new folder.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Set keys: data.train_limit=100."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with what is there; damaged shards are made again."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a live teacher once for all that training needs of it, and keep its signals.

    A teacher of ``kind: cache`` with this folder as its ``path`` then serves any student that
    reads the same documents; no model is loaded. See docs/signal_cache.md.
    """
    with explained():
        from orchestrator.config import load_run

        config = load_run(run_file, overrides or [])
        from orchestrator.signal_cache.capture import capture as write

        print_fields(asdict(write(config, teacher, output, resume=resume)), as_json)
