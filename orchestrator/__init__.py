"""Everything that runs: configuration, data, cluster, student, loop, metrics and command line.

`losses`, `teachers` and `orchestrator` are installed under these plain names, so a folder of the
user's own with such a name may shadow one of them. Importing this package refuses that at once,
instead of failing later with a puzzling `AttributeError`.
"""

from importlib.util import find_spec
from pathlib import Path


def _location(package: str) -> Path | None:
    """Return the folder or file that ``import package`` would read, None if there is none."""
    spec = find_spec(package)
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or package).resolve()


def _require_siblings(*packages: str) -> None:
    """Check that each package lies beside this one on disk.

    Raises:
        ImportError: Another folder or module of that name comes first on the path, or it is absent.
    """
    home = Path(__file__).resolve().parent.parent
    for package in packages:
        found = _location(package)
        if found != home / package:
            raise ImportError(
                f"`import {package}` finds {found or 'nothing'}, but tutelage needs its own "
                f"package at {home / package}: rename or move what shadows it (the current "
                "folder and PYTHONPATH come first on Python's path), or reinstall tutelage"
            )


_require_siblings("losses", "teachers")
