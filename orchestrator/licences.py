"""Under which licence a model or a text is, as far as its own files say. Nothing is guessed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from orchestrator.assets import ASSETS

UNKNOWN = "unknown"

ASSET = "asset:"


@dataclass(frozen=True)
class Source:
    """Something that a model was made from.

    Args:
        role: what it was for.
        name: as the run file names it; of a path only its last part.
        licence: in words, or ``unknown``.
        note: what else is known of it, such as who made it.
    """

    role: str
    name: str
    licence: str
    note: str = ""


def model_source(role: str, reference: str, revision: str | None = None) -> Source:
    """What is known of a model or tokenizer: an asset, a folder, or a hub id.

    A hub id is looked up in the local cache of the hub only.
    """
    if reference.startswith(ASSET):
        return _of_asset(role, reference)
    path = Path(reference).expanduser()
    if path.is_dir() or path.is_absolute() or reference.startswith(".") or "/" not in reference:
        return Source(role, path.name, _of_folder(path))
    return Source(role, reference, _of_hub_id(reference, revision))


def text_source(role: str, reference: str) -> Source:
    """What is known of a data file: an asset, or a path, whose folder may hold a data card."""
    if reference.startswith(ASSET):
        return _of_asset(role, reference)
    path = Path(reference).expanduser()
    return Source(role, path.name, _of_folder(path.parent) if path.is_file() else UNKNOWN)


def is_hub_id(source: Source) -> bool:
    """True if the name can be looked up on the hub."""
    return source.name.count("/") == 1 and not source.name.startswith(ASSET)


def front_matter(readme: Path) -> dict[str, Any]:
    """The YAML at the top of a model card or data card; empty if there is none."""
    if not readme.is_file():
        return {}
    before, fence, rest = readme.read_text(encoding="utf-8").partition("---\n")
    header, end, _ = rest.partition("\n---")
    if before.strip() or not fence or not end:
        return {}
    try:
        found = yaml.safe_load(header)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _of_asset(role: str, reference: str) -> Source:
    name = reference.removeprefix(ASSET)
    for asset in ASSETS:
        if name in asset.references or name == asset.name:
            return Source(role, reference, asset.licence, asset.provenance)
    return Source(role, reference, UNKNOWN)


def _of_folder(folder: Path) -> str:
    licence = _in_words(front_matter(folder / "README.md"))
    if licence != UNKNOWN:
        return licence
    files = sorted(path.name for path in folder.glob("LICEN[CS]E*") if path.is_file())
    return f"{UNKNOWN} (its folder holds {', '.join(files)})" if files else UNKNOWN


def _of_hub_id(name: str, revision: str | None) -> str:
    try:
        found = try_to_load_from_cache(name, "README.md", revision=revision)
    except HFValidationError:
        return UNKNOWN
    return _in_words(front_matter(Path(found))) if isinstance(found, str) else UNKNOWN


def _in_words(card: dict[str, Any]) -> str:
    """The licence that a card states."""
    licence = card.get("license")
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    details = [str(card[key]) for key in ("license_name", "license_link") if card.get(key)]
    if licence in (None, "", UNKNOWN):
        return _made_from(card)
    return f"{licence} ({', '.join(details)})" if details else str(licence)


def _made_from(card: dict[str, Any]) -> str:
    """What one of our own cards says of its sources, whose licences are all there is to go by."""
    own = card.get("tutelage")
    listed = own.get("sources") if isinstance(own, dict) else None
    rows = [row for row in listed or [] if isinstance(row, dict)]
    parts = dict.fromkeys(f"{row.get('name')}: {row.get('licence')}" for row in rows)
    return f"{UNKNOWN} (made from {'; '.join(parts)})" if parts else UNKNOWN
