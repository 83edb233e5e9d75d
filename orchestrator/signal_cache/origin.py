"""Which model a cache's signals come from, for those who tell where a student comes from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teachers.signal_cache.cache import read_manifest


def model_of(teacher: Mapping[str, Any]) -> str | None:
    """The model of a teacher's entry; of a cache the one that spoke, if the folder is still there.

    Args:
        teacher: the entry, as it is written.
    """
    model, path = teacher.get("model"), teacher.get("path")
    if model is None and path is not None:
        try:
            model = read_manifest(Path(path).expanduser()).teacher.model
        except ValueError:
            return None
    return None if model is None else str(model)
