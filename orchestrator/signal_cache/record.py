"""``record``: a run writes what its live teachers say as it goes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from losses.document import Document
from orchestrator.config import RunConfig
from orchestrator.gates.chosen import FIRST, spread
from orchestrator.run_folder import locked
from orchestrator.setup import Setup
from orchestrator.signal_cache.folder import open_cache_folder
from orchestrator.signal_cache.writer import CacheWriter
from teachers.actor import TeacherSpec


def record_folders(config: RunConfig) -> dict[str, Path]:
    """Where each teacher that is recorded is recorded to, by its name; absolute."""
    return {t.name: Path(t.record).expanduser().absolute() for t in config.teachers if t.record}


@contextmanager
def records_locked(config: RunConfig) -> Iterator[None]:
    """Keep other runs and captures out of the folders that a run records into.

    Raises:
        ConfigError: another process is at it.
    """
    with ExitStack() as stack:
        for folder in record_folders(config).values():
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        yield


def recorded(
    specs: Sequence[TeacherSpec], config: RunConfig, setup: Setup, *, checked: bool
) -> list[TeacherSpec]:
    """The specs of a run's teachers, with what writes the answers of those that are recorded.

    Args:
        specs: of the run's teachers.
        config: the run.
        setup: its tokenizers and documents.
        checked: the checks before the first step will ask the teachers too. What they ask of
            replicas is written, since none of these can tell it from what a step asks.

    Raises:
        ConfigError: a folder holds something else, or other signals.
    """
    folders = record_folders(config)
    chosen = spread(setup.train.documents[:FIRST], config.checks.documents) if checked else []
    alone = {t.name for t in config.teachers if t.resources.replicas == 1}
    for spec in specs:
        if spec.name in folders:
            place = f"teachers.{spec.name}.record"
            open_cache_folder(folders[spec.name], spec, config, setup, place)
    return [
        replace(
            spec,
            record=_writer(spec.name, folders[spec.name], chosen if spec.name in alone else []),
        )
        if spec.name in folders
        else spec
        for spec in specs
    ]


def _writer(name: str, folder: Path, checked: Sequence[Document]) -> CacheWriter:
    only_checked = [document.digest for document in checked if not document.goes_to(name)]
    return CacheWriter(folder, [document.digest for document in checked], only_checked)
