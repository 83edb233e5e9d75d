"""Where a teacher's stored signals lie, and the live model they may be compared with."""

from dataclasses import dataclass

from teachers.source import ModelSource


@dataclass(frozen=True)
class CacheParity:
    """A live model that must say what the cache says, before the first step.

    Args:
        model: where it comes from.
        tolerance: largest difference that passes, see ``teachers.signal_cache.parity``.
    """

    model: ModelSource
    tolerance: float


@dataclass(frozen=True)
class CacheSource:
    """The folder (absolute) of a signal cache."""

    path: str
    parity: CacheParity | None = None
