"""Where a run stands: the step, what it read, and what it has counted so far.

The order of documents is a pure function of the step (``documents_of_step``), and a signal one of
its document. So the step alone is the data cursor, also across epochs, and the requests that were
under way are asked again. What must not change meanwhile is the data: hence its digests.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from losses.document import Document
from orchestrator.checkpoint.contents import STATE

POSITION = f"{STATE}/position.json"


@dataclass
class Tally:
    """What one arm has added up over its steps.

    ``shares`` are sums over the ``num_shares`` steps where they were measured; ``cpu_seconds``
    is CPU percent times seconds; ``waited`` the seconds waited for each teacher. ``num_bytes``
    are those that count; 0 is not known, for what an older release trained. ``dropped`` has the
    step from which the run goes on without a teacher, ``bad_documents`` the names of those on which
    a teacher failed.
    """

    seconds: float = 0.0
    num_tokens: int = 0
    cpu_seconds: float = 0.0
    num_shares: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)
    num_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    bad_documents: dict[str, list[str]] = field(default_factory=dict)

    def add(
        self, num_tokens: int, shares: Mapping[str, float], waited: Mapping[str, float]
    ) -> None:
        """Count one step; ``shares`` is empty if they were not measured."""
        self.num_tokens += num_tokens
        self.num_shares += bool(shares)
        for total, values in ((self.shares, shares), (self.waited, waited)):
            for name, value in values.items():
                total[name] = total.get(name, 0.0) + value


@dataclass(frozen=True)
class Inputs:
    """What a run reads, so that a change is noticed: a description by name in the run file."""

    found: Mapping[str, str]

    def changed(self, before: "Inputs") -> list[str]:
        """What differs from before, one line each."""
        names = sorted(self.found.keys() | before.found.keys())
        pairs = [(name, before.found.get(name), self.found.get(name)) for name in names]
        return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]


def describe_documents(documents: Sequence[Document]) -> str:
    """Number and digest of documents in their order.

    >>> describe_documents([])
    '0 documents, sha256 e3b0c44298fc1c14'
    """
    sha = hashlib.sha256("".join(_digest(document) for document in documents).encode())
    return f"{len(documents)} documents, sha256 {sha.hexdigest()[:16]}"


def _digest(document: Document) -> str:
    """Of its content, and of the teachers that it goes to, if not to all."""
    return document.digest + ("" if document.teachers is None else f"{document.teachers}")


@dataclass(frozen=True)
class Position:
    """``step`` updates are done; ``bits_per_byte`` is that of data.validation, if measured."""

    step: int
    seed: int
    inputs: Inputs
    tally: Tally
    bits_per_byte: float | None = None

    def save(self, checkpoint: Path) -> None:
        """Write it into a checkpoint that is being made."""
        path = checkpoint / POSITION
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> "Position":
        """Read it from a complete checkpoint."""
        found: dict[str, Any] = json.loads((checkpoint / POSITION).read_text(encoding="utf-8"))
        parts = {"inputs": Inputs(**found["inputs"]), "tally": Tally(**found["tally"])}
        return cls(**{**found, **parts})
