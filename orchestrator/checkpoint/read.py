"""Finding the checkpoint to continue from: ``latest``, or the newest whole one before it."""

import logging
import time
from pathlib import Path

from orchestrator.atomic import remove_leftovers
from orchestrator.checkpoint.contents import BEST, LATEST, complete_checkpoints, flaw_of
from orchestrator.checkpoint.retention import note_best
from orchestrator.errors import ConfigError

log = logging.getLogger(__name__)


def checkpoint_to_resume(folder: Path) -> Path | None:
    """The checkpoint that ``latest`` names if it is whole, else the newest whole one before it.

    Nothing is changed. None if there is no checkpoint at all.

    Raises:
        ConfigError: there are checkpoints, but every one is damaged.
    """
    found = complete_checkpoints(folder)
    flaws: list[str] = []
    for path in _candidates(folder, found):
        flaw = flaw_of(path)
        if flaw is None:
            if flaws:
                log.warning("RESUMING FROM %s INSTEAD: %s", path.name, "; ".join(flaws))
            return path
        flaws.append(f"{path.name}: {flaw}")
    if found or flaws:
        raise ConfigError(
            f"no checkpoint in {folder} is whole: {'; '.join(flaws)}. Restore one from a copy, or "
            "start anew with --overwrite"
        )
    return None


def _candidates(folder: Path, found: dict[int, Path]) -> list[Path]:
    """Newest first, none newer than what ``latest`` names."""
    newest_first = list(reversed(found.values()))
    latest = _latest(folder)
    if latest is None:
        if found:
            log.warning("%s names no checkpoint; looking at all of them", folder / LATEST)
        return newest_first
    older = [path for path in newest_first if _step(path) < _step(latest)]
    return [latest, *older]


def _latest(folder: Path) -> Path | None:
    path = folder / LATEST
    if not path.is_file():
        return None
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    valid = name.startswith("checkpoint-") and name.removeprefix("checkpoint-").isdecimal()
    return folder / name if valid else None


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def clear_the_way(folder: Path, resumed: Path | None) -> None:
    """Remove what killed processes left half-written; set checkpoints aside that are no longer so.

    A checkpoint newer than the one resumed from was damaged, or never became the latest; it is
    renamed, so that it neither counts nor is in the way. ``best.json`` names one of the rest.
    """
    remove_leftovers(folder)
    first_new = 0 if resumed is None else _step(resumed) + 1
    for path in folder.glob("checkpoint-*"):
        digits = path.name.removeprefix("checkpoint-")
        if digits.isdecimal() and int(digits) >= first_new:
            aside = path.with_name(f"{path.name}.aside-{time.time_ns()}")
            log.warning("%s is not what the run continues from: renamed to %s", path, aside.name)
            path.rename(aside)
    if (folder / BEST).is_file():
        note_best(folder)
