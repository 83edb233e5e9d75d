"""The log of one process of a run; what it does when it hangs is written there too."""

import faulthandler
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PACKAGES = ("losses", "teachers", "orchestrator")


class ProcessLog:
    """Writes what our packages log into a file, and keeps the warnings until they are taken.

    Args:
        path: the file, which grows from one process to the next; None writes none.
        patience_s: seconds after which the stacks of a call that still runs are written.
    """

    def __init__(self, path: Path | None, patience_s: float) -> None:
        self._patience_s = patience_s
        self._warnings = _Warnings(logging.WARNING)
        self._handlers: list[logging.Handler] = [self._warnings]
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
            writer = logging.StreamHandler(self._file)
            writer.setFormatter(
                logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s")
            )
            self._handlers.append(writer)
        for logger in map(logging.getLogger, PACKAGES):
            logger.setLevel(logging.INFO)
            for handler in self._handlers:
                logger.addHandler(handler)

    @contextmanager
    def stacks_if_late(self) -> Iterator[None]:
        """Write all threads' stacks if this block takes too long; it goes on nevertheless."""
        if self._file is None:
            yield
            return
        faulthandler.dump_traceback_later(self._patience_s, file=self._file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def take_warnings(self) -> tuple[str, ...]:
        """The warnings since the last call."""
        return self._warnings.take()

    def close(self) -> None:
        """Write nothing any more."""
        for logger in map(logging.getLogger, PACKAGES):
            for handler in self._handlers:
                logger.removeHandler(handler)
        if self._file is not None:
            self._file.close()


class _Warnings(logging.Handler):
    """Keeps messages."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def take(self) -> tuple[str, ...]:
        taken, self._messages = tuple(self._messages), []
        return taken
