"""Teachers and a student that compute nothing: they sleep, and send or fetch as many bytes.

They answer like ``TeacherActor`` and ``StudentWorker``, so that the real stream drives them, but
import no torch: a process of theirs takes some 100 MB, and one host holds 64 of them. Start them
with ``ray.remote(SimulatedTeacher).options(...).remote(name, latency_s, bytes_per_token)``.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from losses.document import Document
from teachers.stopwatch import Stopwatch, Worked

BYTES_OF_A_TOKEN = 4
"""Bytes of text that one token stands for."""


@dataclass(frozen=True)
class SimulatedSignal:
    """As many bytes as a real signal, without its meaning."""

    payload: UInt8[np.ndarray, "byte"]

    @property
    def num_bytes(self) -> int:
        """Bytes on the wire, without the envelope."""
        return self.payload.nbytes


def num_tokens(document: Document) -> int:
    """Tokens that a document counts as, at least one."""
    return max(1, len(document.content) // BYTES_OF_A_TOKEN)


class SimulatedTeacher:
    """An actor class: each request takes ``latency_s`` and gives ``bytes_per_token``.

    Attributes:
        seconds_asleep: what all requests took together.
    """

    def __init__(
        self,
        name: str,
        latency_s: float,
        bytes_per_token: float,
        seconds_per_token: float = 0.0,
    ) -> None:
        self.name, self.latency_s = name, latency_s
        self.bytes_per_token, self.seconds_per_token = bytes_per_token, seconds_per_token
        self.seconds_asleep = 0.0
        self.watch = Stopwatch()

    def ready(self) -> bool:
        """Answers once the actor is built."""
        return True

    def become(self, latency_s: float, bytes_per_token: float) -> None:
        """Answer so from now on."""
        self.latency_s, self.bytes_per_token = latency_s, bytes_per_token

    def signals(self, documents: Sequence[Document]) -> list[tuple[SimulatedSignal, ...]]:
        """For each document one signal, after the time that the request takes."""
        tokens = [num_tokens(document) for document in documents]
        seconds = self.latency_s + self.seconds_per_token * sum(tokens)
        with self.watch.busy():
            time.sleep(seconds)
        self.seconds_asleep += seconds
        return [self._said(count) for count in tokens]

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> tuple[Any, ...]:
        """The number of documents, then each one's signals, once for each part."""
        rows = self.signals(documents)
        return (len(documents), *(row for row in rows for _ in parts))

    def head_weights(self) -> None:
        """No head: nothing here is read as a distribution."""

    def worked(self) -> Worked:
        """How long it worked and waited since it was last asked this."""
        return self.watch.take()

    def pid(self) -> int:
        """The process, to measure or to kill."""
        return os.getpid()

    def imports_torch(self) -> bool:
        """True if the process has torch in memory after all."""
        return "torch" in sys.modules

    def _said(self, count: int) -> tuple[SimulatedSignal, ...]:
        size = round(count * self.bytes_per_token)
        return (SimulatedSignal(np.zeros(size, dtype=np.uint8)),)


@dataclass(frozen=True)
class StepTimes:
    """What one step of a simulated student took, in seconds, and the bytes that it fetched."""

    waited: Mapping[str, float]
    trained: float
    received_bytes: int


class SimulatedStudent:
    """An actor class: fetches each teacher's signals, reads them once, and sleeps."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s

    def ready(self) -> bool:
        """Answers once the actor is built."""
        return True

    def become(self, latency_s: float) -> None:
        """Take so long from now on."""
        self.latency_s = latency_s

    def step(
        self,
        documents: Sequence[Document],
        references: Mapping[str, Any],
        num_scored_bytes: int,
        *,
        measure_shares: bool = False,
    ) -> StepTimes:
        """As ``StudentWorker.step``: wait for each teacher in turn, then train.

        Raises:
            ValueError: a teacher gave signals of another number of documents.
        """
        del num_scored_bytes, measure_shares
        waited, received = {}, 0
        for name, reference in references.items():
            start = time.perf_counter()
            signals = _fetched(reference)
            waited[name] = time.perf_counter() - start
            if len(signals) != len(documents):
                raise ValueError(f"{name}: signals of {len(signals)} of {len(documents)} documents")
            received += sum(_read(signal) for row in signals for signal in row)
        start = time.perf_counter()
        time.sleep(self.latency_s)
        return StepTimes(waited, time.perf_counter() - start, received)


def _fetched(reference: Any) -> list[tuple[SimulatedSignal, ...]]:
    import ray  # the teachers' processes have it; a test of the classes alone need not

    signals: list[tuple[SimulatedSignal, ...]] = ray.get(reference)
    return signals


def _read(signal: SimulatedSignal) -> int:
    """Touch every page, as an optimiser step does: shared memory is mapped at the first look."""
    return signal.num_bytes + int(signal.payload[::4096].sum())
