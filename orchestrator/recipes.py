"""``tutelage init``: a file that comes with tutelage, copied to be changed."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from orchestrator.config.shipped import (
    shipped_experiments,
    shipped_hypernetworks,
    shipped_run_files,
)
from orchestrator.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """One shipped file: its name without ``.yaml``, and the first sentence of its comment."""

    name: str
    purpose: str


def recipes() -> list[Recipe]:
    """Every shipped run file, then the experiments, then the hypernetworks."""
    return [Recipe(name.removesuffix(".yaml"), _purpose(path)) for name, path in _files().items()]


def _files() -> dict[str, Path]:
    return shipped_run_files() | shipped_experiments() | shipped_hypernetworks()


def _purpose(path: Path) -> str:
    """The comment at the top up to its first full stop."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")


def copy_recipe(name: str, target: Path | None = None) -> Path:
    """Copy a recipe to a file, into a folder, or by default into the current folder.

    Raises:
        ConfigError: there is no such recipe; lists them.
        FileExistsError: the file exists.
    """
    files = _files()
    file_name = f"{name.removesuffix('.yaml')}.yaml"
    if file_name not in files:
        known = [recipe.name for recipe in recipes()]
        close = get_close_matches(name, known, n=1)
        hint = f', did you mean "{close[0]}"?' if close else f"; there are: {', '.join(known)}"
        raise ConfigError(f'no recipe "{name}"{hint}')
    path = target or Path(Path(file_name).name)
    if path.is_dir():
        path = path / Path(file_name).name
    try:
        with path.open("xb") as file:
            file.write(files[file_name].read_bytes())
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists already; name another file") from error
    return path
