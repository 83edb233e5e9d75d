"""How long a process worked and how long it had nothing to do, by its own clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Worked:
    """Seconds since the last time this was asked for, and the warnings logged meanwhile."""

    busy_s: float
    idle_s: float
    warnings: tuple[str, ...] = ()


class Stopwatch:
    """Counts what happens inside ``busy``; the rest is waiting for something to do.

    >>> ticks = iter([0.0, 1.0, 4.0, 5.0])
    >>> watch = Stopwatch(lambda: next(ticks))
    >>> with watch.busy():
    ...     pass
    >>> watch.take()
    Worked(busy_s=3.0, idle_s=2.0, warnings=())
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since = clock()
        self._busy = 0.0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """What happens here counts as work, also if it fails."""
        began = self._clock()
        try:
            yield
        finally:
            self._busy += self._clock() - began

    def take(self) -> Worked:
        """What was counted, and start anew."""
        now = self._clock()
        worked = Worked(self._busy, now - self._since - self._busy)
        self._since, self._busy = now, 0.0
        return worked
