"""The folder of one run: nothing the user has is overwritten."""

import fcntl
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from orchestrator.atomic import atomic_write_text
from orchestrator.config import ExperimentConfig, RunConfig, load_run, to_yaml
from orchestrator.continuation import check_continuation
from orchestrator.environment import environment
from orchestrator.errors import ConfigError
from orchestrator.hypernetwork.config import HypernetworkConfig
from orchestrator.references import data_references, model_references

AnyConfig: TypeAlias = RunConfig | ExperimentConfig | HypernetworkConfig

log = logging.getLogger(__name__)

RESOLVED = "resolved.yaml"
ENVIRONMENT = "env.json"


def open_run_folder(config: AnyConfig, *, overwrite: bool) -> Path:
    """Make the run's folder and write the resolved run file and the environment into it.

    With ``overwrite`` a folder that holds something is moved aside, not deleted.

    Raises:
        ConfigError: the folder holds something and ``overwrite`` was not asked for.
    """
    folder = Path(config.output_dir).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ConfigError(
                f"output_dir: {folder} is not empty; choose another, or pass --overwrite to move "
                "it aside and start anew"
            )
        _move_aside(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    _describe(folder, config)
    return folder


def folder_to_resume(config: RunConfig) -> Path:
    """The folder of a run that is to go on, after checking that it is the same run.

    Raises:
        ConfigError: there is no run, or the run file would make it another one.
    """
    folder = Path(config.output_dir).absolute()
    former = folder / RESOLVED
    if not former.is_file():
        raise ConfigError(
            f"output_dir: {folder} holds no run to resume ({RESOLVED} is missing); start it "
            "without --resume"
        )
    check_continuation(load_run(former), config)
    _warn_of_versions(folder / ENVIRONMENT)
    return folder


def renew_run_folder(folder: Path, config: AnyConfig) -> None:
    """Write the run file of now; one that differs stays as ``resolved.until-….yaml``."""
    former = folder / RESOLVED
    if former.read_text(encoding="utf-8") != to_yaml(config):
        kept = folder / f"resolved.until-{time.strftime('%Y%m%d-%H%M%S')}.yaml"
        atomic_write_text(kept, former.read_text(encoding="utf-8"))
    _describe(folder, config)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder; a killed one holds no lock.

    Raises:
        ConfigError: another process is at it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"output_dir: another process is running in {folder}; wait for it, or stop it"
            ) from error
        yield


def _describe(folder: Path, config: AnyConfig) -> None:
    atomic_write_text(folder / RESOLVED, to_yaml(config))
    atomic_write_text(folder / ENVIRONMENT, json.dumps(asdict(environment()), indent=2) + "\n")


def _warn_of_versions(path: Path) -> None:
    if not path.is_file():
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), asdict(environment())
    for name in ("torch", "transformers", "deepspeed", "cuda"):
        if before.get(name) != now[name]:
            log.warning(
                "%s: %s -> %s since the run started; last digits may differ",
                name,
                before.get(name),
                now[name],
            )


def _move_aside(folder: Path, config: AnyConfig) -> None:
    """Rename the folder, unless a process runs in it or what the run reads would go with it."""
    for place, path in _read_paths(config):
        if path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"output_dir: --overwrite would move {folder} aside, and with it {place} ({path}); "
                "choose another output_dir"
            )
    if folder.is_dir():
        with locked(folder):
            folder.rename(_free_name(folder))
    else:
        folder.rename(_free_name(folder))


def _read_paths(config: AnyConfig) -> Iterator[tuple[str, Path]]:
    yield "the current folder", Path.cwd()
    if isinstance(config, RunConfig):
        for reference in (*model_references(config), *data_references(config)):
            if reference.asset is None:
                yield reference.place, Path(reference.text).expanduser()


def _free_name(folder: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = folder.with_name(f"{folder.name}.replaced-{stamp}")
    while name.exists():
        name = name.with_name(name.name + "+")
    return name
