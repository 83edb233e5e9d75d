"""Write files and folders so that a reader sees the old state or the new one, never a half.

Everything is written beside its target, on the same file system, forced to disk, then renamed:
rename is atomic, and a name that exists therefore stands for complete content, also after a crash.
A killed process leaves at most ``.NAME.*.partial``, which may be deleted; killed between the two
renames of a replacement, it leaves the former content whole under ``.NAME.*.replaced``.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that becomes ``target`` when the block succeeds.

    The folder is removed if the block raises. With ``replace`` an existing target is moved away
    only when the new one is complete, and deleted only once that is in its place; if the last
    rename fails, the former folder is moved back.

    Raises:
        FileExistsError: If the target exists, at the start or at the end, without ``replace``.
    """
    _refuse_existing(target, replace=replace)
    partial = _beside(target, "partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        _set_modes(partial)
        _sync_tree(partial)
        _refuse_existing(target, replace=replace)
        _put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path``, replacing what is there in one step; newlines stay as given."""
    atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, replacing what is there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync(path.parent)


def discard(folder: Path) -> None:
    """Delete a folder that has a name of its own: first the name goes, then the content."""
    partial = _beside(folder, "partial")
    folder.rename(partial)
    _sync(folder.parent)
    shutil.rmtree(partial)


def remove_leftovers(folder: Path) -> None:
    """Tidy up after killed processes, directly inside a folder.

    What is half-written goes. What a replacement had moved away comes back, unless the new
    content got into its place.
    """
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in folder.glob(".*.replaced"):
        target = folder / path.name[1:].rsplit(".", 2)[0]
        if target.exists():
            shutil.rmtree(path)
        else:
            path.rename(target)


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``; an existing target survives unless that succeeds."""
    if not target.exists():
        partial.rename(target)
        _sync(target.parent)
        return
    former = _beside(target, "replaced")
    target.rename(former)
    try:
        partial.rename(target)
    except OSError:
        former.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(former)


def _refuse_existing(target: Path, *, replace: bool) -> None:
    if target.exists() and not replace:
        raise FileExistsError(
            f"{target} exists already: expected a new name; remove it or ask to replace it"
        )


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{suffix}")


def _set_modes(folder: Path) -> None:
    """Files as readable as the folder; safetensors lets only their owner read its own."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
