"""Finds run, experiment and hypernetwork files: one's own by path, the shipped ones by name."""

from pathlib import Path

from orchestrator.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]

SHIPPED_FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Inside an installed wheel, and beside the packages in a source tree."""


def shipped_run_files() -> dict[str, Path]:
    """The run files that come with tutelage, by file name."""
    return _shipped("*.yaml")


def shipped_experiments() -> dict[str, Path]:
    """The experiment files that come with tutelage, by their path from the folder."""
    return _shipped("experiments/*.yaml")


def shipped_hypernetworks() -> dict[str, Path]:
    """The hypernetworks' files that come with tutelage, by their path from the folder."""
    return _shipped("hypernetworks/*.yaml")


def _shipped(pattern: str) -> dict[str, Path]:
    folder = next((folder for folder in SHIPPED_FOLDERS if folder.is_dir()), None)
    if folder is None:
        return {}
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(pattern))}


def find_run_file(path: str | Path) -> Path:
    """The run file at the path, else the shipped one of that name.

    Raises:
        ConfigError: there is neither; lists the shipped ones.
    """
    return _find(path, shipped_run_files(), "a run file")


def find_experiment(path: str | Path) -> Path:
    """The experiment file at the path, else the shipped one of that name.

    Raises:
        ConfigError: there is neither; lists the shipped ones.
    """
    return _find(path, shipped_experiments(), "an experiment file")


def find_hypernetwork(path: str | Path) -> Path:
    """The hypernetwork's file at the path, else the shipped one of that name.

    Raises:
        ConfigError: there is neither; lists the shipped ones.
    """
    return _find(path, shipped_hypernetworks(), "a hypernetwork's file")


def _find(path: str | Path, shipped: dict[str, Path], noun: str) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    if path.as_posix() in shipped:
        return shipped[path.as_posix()]
    raise ConfigError(
        f"{path}: no such file; expected {noun}, or one that comes with tutelage: "
        f"{', '.join(shipped)}"
    )
