"""A target is the old content or the new one, whatever fails and wherever."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.atomic import atomic_folder, atomic_write_text, discard, remove_leftovers


def fill(target: Path, text: str, *, replace: bool = False) -> None:
    with atomic_folder(target, replace=replace) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text(text)


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden leftovers too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def names(folder: Path) -> list[str]:
    """Everything directly inside a folder, hidden leftovers too."""
    return sorted(path.name for path in folder.iterdir())


def fail_on_call(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Let the given call, counted from 1, of a function raise OSError."""
    original, calls = getattr(owner, name), iter(range(1, 1000))

    def sometimes(*args: object) -> object:
        if next(calls) == call:
            raise OSError("injected")
        return original(*args)

    monkeypatch.setattr(owner, name, sometimes)


def test_folder_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "target"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
        assert folder.parent == target.parent
    assert content(tmp_path) == {"parent/target/file": "x"}
    assert names(target.parent) == ["target"]


def test_every_file_and_folder_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_sync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").resolve().name.split(".")[-1])
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> Path:
        events.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    fill(tmp_path / "target", "x")
    assert events == ["deep", "file", "partial", "rename", tmp_path.name]


def test_files_are_as_readable_as_the_folder(tmp_path: Path) -> None:
    """Also those that a library writes for their owner alone."""
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "part").mkdir()
        private = partial / "part" / "weights"
        private.write_text("1")
        private.chmod(0o600)
    folder = (tmp_path / "model").stat().st_mode
    weights = (tmp_path / "model" / "part" / "weights").stat().st_mode
    assert weights & 0o777 == folder & 0o666


def test_exception_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_folder(tmp_path / "target") as folder:
            (folder / "file").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (os, "fsync", 1),
        (os, "fsync", 3),
        (Path, "rename", 1),  # the old folder away
        (Path, "rename", 2),  # the new folder in place
    ],
)
def test_failed_replacement_keeps_the_old_folder(
    owner: object, name: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "target", "old")
    with monkeypatch.context() as patch:
        fail_on_call(patch, owner, name, call)
        with pytest.raises(OSError, match="injected"):
            fill(tmp_path / "target", "new", replace=True)
    assert content(tmp_path) == {"target/deep/file": "old"}
    assert names(tmp_path) == ["target"]
    fill(tmp_path / "target", "new", replace=True)
    assert content(tmp_path) == {"target/deep/file": "new"}


def test_replacement_drops_files_of_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "target", "old")
    with atomic_folder(tmp_path / "target", replace=True) as folder:
        (folder / "other").write_text("new")
    assert content(tmp_path) == {"target/other": "new"}


def test_existing_target_is_refused_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(FileExistsError, match="target exists already"), atomic_folder(target):
        fill(target, "quicker")
    assert content(tmp_path) == {"target/deep/file": "quicker"}
    entered = False
    with pytest.raises(FileExistsError, match="target exists already"), atomic_folder(target):
        entered = True
    assert not entered


def test_text_is_replaced_in_one_step_with_its_newlines(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "file"
    atomic_write_text(path, "old")
    atomic_write_text(path, "é\r\n\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n\n"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_failed_text_keeps_the_old_file(
    owner: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic_write_text(tmp_path / "file", "old")
    fail_on_call(monkeypatch, owner, name, 1)
    with pytest.raises(OSError, match="injected"):
        atomic_write_text(tmp_path / "file", "new")
    assert content(tmp_path) == {"file": "old"}


@pytest.mark.parametrize("call", [1, 2, 3])
def test_killed_replacement_is_tidied_up(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the old folder goes away, before the new one comes, and after that."""
    fill(tmp_path / "target.v1", "old")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # a killed process cleans up nothing
        if call < 3:
            fail_on_call(patch, Path, "rename", call)
            patch.setattr(Path, "rename", dying(Path.rename))
        with contextlib.suppress(Killed):
            fill(tmp_path / "target.v1", "new", replace=True)
    assert len(names(tmp_path)) > 1
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["target.v1"]
    expected = "new" if call == 3 else "old"
    assert content(tmp_path) == {"target.v1/deep/file": expected}


class Killed(BaseException):
    """The process ended here."""


def dying(function: Callable[..., object]) -> Callable[..., object]:
    """The same function, but its failure is the process's end."""

    def call(*args: object) -> object:
        try:
            return function(*args)
        except OSError as error:
            raise Killed from error

    return call


def test_discarded_folder_loses_its_name_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "target", "old")
    seen: list[list[str]] = []
    monkeypatch.setattr("shutil.rmtree", lambda path: seen.append(names(tmp_path)))
    discard(tmp_path / "target")
    assert len(seen) == 1
    assert seen[0][0].endswith(".partial")
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []
