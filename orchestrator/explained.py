"""Errors that a user can act on become a message and an exit code; all others are bugs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from orchestrator.errors import ResourcesError, TrainingDiverged, WorkerLost, exit_code

EXPLAINED = (ValueError, OSError, ResourcesError, TrainingDiverged, WorkerLost)
"""Errors whose text tells the user what to do; every other one is a bug and shows its traceback."""

_log = logging.getLogger(__name__)


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error that the user can act on into its message and exit code."""
    try:
        yield
    except EXPLAINED as error:
        _fail(error)
    except RuntimeError as error:
        from orchestrator.assets.packages import AssetError

        if not isinstance(error, AssetError):
            raise
        _fail(error)


@contextmanager
def interruptible() -> Iterator[None]:
    """A run that SIGTERM or Ctrl-C ended says where it stands and exits with the signal's code."""
    from orchestrator.interruption import Interrupted

    try:
        yield
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        raise typer.Exit(stop.exit_code) from stop


def _fail(error: Exception) -> NoReturn:
    _log.debug("traceback of the error below", exc_info=error)
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(exit_code(error)) from error
