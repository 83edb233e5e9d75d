"""What an asset is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.assets.packages import Package

DEMO = "demo"
"""The group that ``tutelage assets`` fetches when no name is given."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One folder of the cache."""

    name: str
    """Folder inside the cache and first part of what run files write after ``asset:``."""
    recipe: int | str
    """Changed when ``build`` writes something else; a folder of another recipe is made again."""
    entries: tuple[str, ...]
    """What a run file may name inside the folder; the empty string is the folder itself."""
    packages: tuple[Package, ...]
    """Pinned packages whose members ``build`` gets as files; none: nothing to download."""
    licence: str
    provenance: str
    build: Callable[[list[Path], Path], None]
    """Fill an empty folder from the verified source files, which it may consume."""
    group: str = DEMO
    """Assets that are fetched together when the group is named."""

    @property
    def references(self) -> tuple[str, ...]:
        """Every name a run file may write after ``asset:``."""
        return tuple(f"{self.name}/{entry}".rstrip("/") for entry in self.entries)
