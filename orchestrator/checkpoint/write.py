"""Writing a checkpoint: aside, flushed, sealed, renamed; only then do ``latest`` and others move.

Killed or out of space at any point, the run keeps its last good checkpoint.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError

from orchestrator.atomic import atomic_folder, atomic_write_text
from orchestrator.checkpoint.contents import LATEST, STATE, name_of, seal
from orchestrator.checkpoint.position import Position
from orchestrator.errors import ResourcesError

Write: TypeAlias = Callable[[Path], None]
"""Fills a folder."""

SPARE = 1.05
"""A file system needs a little more than the tensors."""

OTHER_FILES = 64 * 2**20
"""Bytes for the tokenizer and what else is small."""


def save_checkpoint(
    folder: Path, position: Position, write_model: Write, write_state: Write
) -> Path:
    """Add a checkpoint to a run's folder and make it the latest.

    Raises:
        ResourcesError: it could not be written; the former ones are as they were.
    """
    target = folder / name_of(position.step)

    def write(partial: Path) -> None:
        write_model(partial)
        write_state(partial / STATE)
        position.save(partial)

    save_model(target, position.step, write)
    with_latest(folder, target.name)
    return target


def save_model(target: Path, step: int, write: Write) -> None:
    """Write a folder whole, with ``trainer_state.json`` and digests, or leave what was there.

    Raises:
        ResourcesError: it could not be written.
    """
    try:
        with atomic_folder(target, replace=True) as partial:
            write(partial)
            text = json.dumps({"step": step}, indent=2) + "\n"
            (partial / "trainer_state.json").write_text(text, encoding="utf-8")
            seal(partial)
    except (OSError, SafetensorError) as error:
        raise ResourcesError(
            f"{target} could not be written: {error}; what was saved before is whole. Free some "
            "space or repair the disk, then continue with --resume"
        ) from error


def with_latest(folder: Path, name: str) -> None:
    """Let ``latest`` name another checkpoint.

    Raises:
        ResourcesError: the file could not be replaced.
    """
    try:
        atomic_write_text(folder / LATEST, name + "\n")
    except OSError as error:
        raise ResourcesError(
            f"{folder / LATEST} could not be replaced: {error}; {name} is whole but not the "
            "latest yet"
        ) from error


def require_space(folder: Path, num_bytes: int) -> None:
    """Refuse to go on if what is to be saved would not fit.

    Raises:
        ResourcesError: says how much is needed and free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(num_bytes * SPARE) + OTHER_FILES, shutil.disk_usage(folder).free
    if needed > free:
        raise ResourcesError(
            f"saving needs about {needed:,} bytes, but only {free:,} are free in {folder}; "
            "free some space, lower train.save_total_limit, or choose another output_dir. "
            "What was saved before is whole"
        )
