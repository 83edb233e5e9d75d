"""What a checkpoint folder holds, and how one knows that nothing is missing or changed.

    checkpoint-N/            N: optimizer updates done
        config.json, model.safetensors, tokenizer files: load with plain ``from_pretrained``
        trainer_state.json   the step
        state/               what continuing exactly needs; may be deleted before sharing
        COMPLETE             size and SHA-256 of every other file, written last
    latest                   name of the newest one, moved when that is complete
    best.json                the best one on data.validation, with train.keep_best

Only safetensors, JSON and text: nothing is unpickled.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

COMPLETE = "COMPLETE"
LATEST = "latest"
BEST = "best.json"
STATE = "state"
FORMAT = 1


def name_of(step: int) -> str:
    """The folder's name.

    >>> name_of(7)
    'checkpoint-7'
    """
    return f"checkpoint-{step}"


def seal(folder: Path) -> None:
    """Write ``COMPLETE`` with the digests of all files as they are now."""
    files = {name: _entry(folder / name) for name in _files(folder)}
    text = json.dumps({"format": FORMAT, "files": files}, indent=1)
    (folder / COMPLETE).write_text(text + "\n", encoding="utf-8")


def complete_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints that were finished, by step, oldest first; their digests are not looked at."""
    matches = ((re.fullmatch(r"checkpoint-(\d+)", p.name), p) for p in folder.glob("checkpoint-*"))
    found = {int(m[1]): path for m, path in matches if m and (path / COMPLETE).is_file()}
    return dict(sorted(found.items()))


def flaw_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if every file is as it was written."""
    try:
        files = _sealed(checkpoint)
    except OSError as error:
        return f"{COMPLETE} cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError) as error:
        return f"{COMPLETE} is damaged ({error})"
    for name, entry in files.items():
        if (flaw := _flaw(checkpoint / name, entry)) is not None:
            return f"{name} {flaw}"
    return None


def _sealed(checkpoint: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']}, this release reads {FORMAT}")
    files: dict[str, dict[str, Any]] = found["files"]
    return files


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE)
    return sorted(str(path.relative_to(folder)) for path in paths)


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _flaw(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != entry["bytes"]:
        return f"has {size} bytes, was written with {entry['bytes']}"
    return None if _sha256(path) == entry["sha256"] else "has another content than was written"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
