"""Finds run files: the user's own by path, those that come with tutelage by name."""

from pathlib import Path

from orchestrator.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]

SHIPPED_FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Inside an installed wheel, and beside the packages in a source tree."""


def shipped_run_files() -> dict[str, Path]:
    """The run files that come with tutelage, by file name."""
    folder = next((folder for folder in SHIPPED_FOLDERS if folder.is_dir()), None)
    return {path.name: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_run_file(path: str | Path) -> Path:
    """The file at the path, else the shipped one of that name.

    Raises:
        ConfigError: there is neither; lists the shipped ones.
    """
    path = Path(path)
    if path.is_file():
        return path
    shipped = shipped_run_files()
    if str(path) in shipped:
        return shipped[str(path)]
    raise ConfigError(
        f"{path}: no such file; expected a run file, or one that comes with tutelage: "
        f"{', '.join(shipped)}"
    )
