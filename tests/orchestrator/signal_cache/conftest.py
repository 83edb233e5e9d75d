"""Toy teachers, their captured signals, and a trainer on the plain engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import RunConfig, load_run
from orchestrator.signal_cache.capture import capture

SMALL = (
    "data.train_limit=12",
    "data.held_out_limit=3",
    "data.max_length=512",
    "train.global_batch=4",
    "train.micro_batch=2",
    "train.max_steps=3",
    "train.warmup_steps=0",
    "train.gradient_share_steps=0",
    "compare.ce_only=null",
)
"""Three steps are one epoch."""


@pytest.fixture(scope="session")
def small_keys() -> tuple[str, ...]:
    """Overrides of the smoke run."""
    return SMALL


@pytest.fixture(scope="session")
def small_run() -> Callable[..., RunConfig]:
    """The smoke run, small, with these overrides."""

    def load(*overrides: str) -> RunConfig:
        return load_run("smoke.yaml", [*SMALL, *overrides])

    return load


@pytest.fixture(scope="session")
def captured(small_run, tmp_path_factory) -> dict[str, Path]:
    """Both teachers' caches, by name; never change them."""
    folders = {}
    for name in ("bytelevel", "sentencepiece"):
        folders[name] = tmp_path_factory.mktemp("caches") / name
        capture(small_run(), name, folders[name])
    return folders


@pytest.fixture(scope="session")
def from_caches(small_run) -> Callable[..., RunConfig]:
    """The same run with both teachers' signals from folders."""

    def load(folders: dict[str, Path], *overrides: str) -> RunConfig:
        keys = [
            text
            for name, folder in folders.items()
            for text in (
                f"teachers.{name}.kind=cache",
                f"teachers.{name}.path={folder}",
                f"teachers.{name}.model=null",
            )
        ]
        return small_run(*keys, *overrides)

    return load


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, Any]]:
    """Every file below a folder but locks, by its path."""

    def read(folder: Path) -> dict[str, Any]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read
