"""SIGTERM and Ctrl-C: the step in progress is finished and saved, then the run ends."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeAlias

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)

Handler: TypeAlias = Callable[[int, FrameType | None], Any]


class Interrupted(Exception):
    """The run was asked to stop and did; the text says how to continue.

    Args:
        message: what was saved.
        signum: the signal; the exit code is 128 more, as shells have it.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


@dataclass
class StopRequest:
    """The signal that asked the run to stop; None as long as none came."""

    signum: int | None = None

    def check(self, saved: str) -> None:
        """Stop here if that was asked for.

        Raises:
            Interrupted: it was; ``saved`` says what is on disk.
        """
        if self.signum is not None:
            name = signal.Signals(self.signum).name
            raise Interrupted(f"stopped by {name}: {saved}", self.signum)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first SIGTERM or SIGINT; a second one acts as it did before, at once.

    Only the main thread may do this; elsewhere nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def note(signum: int, _frame: FrameType | None) -> None:
        request.signum = signum
        _set(former)
        log.warning(
            "%s: finishing the step and saving; once more stops at once",
            signal.Signals(signum).name,
        )

    _set(dict.fromkeys(SIGNALS, note))
    try:
        yield request
    finally:
        _set(former)


def _set(handlers: Mapping[signal.Signals, Handler | int | None]) -> None:
    for signum, handler in handlers.items():
        if handler is not None:  # None: installed by something other than Python
            signal.signal(signum, handler)
