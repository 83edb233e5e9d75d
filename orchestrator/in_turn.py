"""A handle whose every call first takes the device that others use too.

A call of a process that is not on the device first sends away the one that is: ``leave`` is queued
behind the calls that it still has, ``enter`` waits for that, and the call waits for ``enter``. So
the driver only asks, in the order in which the turns are taken, and waits for none of it. One that
died has left too: ``enter`` gets the reference in a list, which Ray hands over as it is, where the
bare one would make ``enter`` fail with it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any


class Turns:
    """The device, and who has it."""

    def __init__(self) -> None:
        self._holder: InTurn | None = None

    def begin(self, holder: "InTurn") -> None:
        """Say who was built on the device."""
        self._holder = holder

    def give(self, one: "InTurn") -> None:
        """Let this one onto the device, once whoever has it has left."""
        if one is self._holder:
            return
        left = [] if self._holder is None else [self._holder.handle.leave.remote()]
        one.handle.enter.remote(one.device, left)
        self._holder = one


class InTurn:
    """A handle whose every call first takes the device.

    Args:
        handle: the actor's.
        device: ``cuda``, or ``cpu`` for one that needs no turn but answers in the same order.
        turns: shared by all that take turns.
    """

    def __init__(self, handle: Any, device: str, turns: Turns) -> None:
        self.handle, self.device = handle, device
        self._turns = turns

    def __getattr__(self, method: str) -> "CallInTurn":
        return CallInTurn(getattr(self.handle, method), partial(self._turns.give, self))


@dataclass(frozen=True)
class CallInTurn:
    """A method that is called once its process is on the device."""

    method: Any
    take: partial[None]

    def remote(self, *arguments: Any, **named: Any) -> Any:
        """Take the device, then call."""
        self.take()
        return self.method.remote(*arguments, **named)

    def options(self, **options: Any) -> "CallInTurn":
        """See Ray's."""
        return CallInTurn(self.method.options(**options), self.take)
