"""Waiting for what a teacher lacks for the time being: its server, its files, room in memory.

Only a run file with ``faults.teacher_lost: wait`` asks for it. What another try cannot mend, such
as a damaged file or a refused request, is raised at once.
"""

import logging

import ray
import torch
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_never,
    wait_random_exponential,
)

log = logging.getLogger(__name__)

WHILE_STARTING = (OSError, MemoryError, torch.OutOfMemoryError)
"""What may be over when a process that starts again has tried again: a folder that is not mounted
yet, a server that is down, memory that the process before it has not given back."""

WHILE_ANSWERING = (ConnectionError,)
"""A server that cannot be reached, after ``server.retries``."""

WAIT = wait_random_exponential(multiplier=1, max=60)
"""Seconds between two tries: up to 1, then up to 2, 4 … 60."""


def patience(errors: tuple[type[Exception], ...], *, endless: bool) -> Retrying:
    """Calls a function, again after one of these errors if ``endless``; each is a warning."""
    return Retrying(
        retry=retry_if_exception_type(errors),
        stop=stop_never if endless else stop_after_attempt(1),
        wait=WAIT,
        before_sleep=_tell,
        reraise=True,
    )


def started_again() -> bool:
    """True in an actor that Ray starts anew: it has been there before, so its run file is right."""
    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


def _tell(state: RetryCallState) -> None:
    error = None if state.outcome is None else state.outcome.exception()
    log.warning("%s; waiting on (faults.teacher_lost: wait)", error)
