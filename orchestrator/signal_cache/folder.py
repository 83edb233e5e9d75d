"""Opens the folder of a signal cache for writing: begun anew, or gone on with if it is the same."""

import hashlib
import logging
from pathlib import Path

from pydantic import ValidationError

from orchestrator.atomic import (
    atomic_folder,
    atomic_write_bytes,
    atomic_write_text,
    remove_leftovers,
)
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.setup import Setup
from orchestrator.signal_cache.facts import manifest_differences, manifest_of, tokenizer_of
from orchestrator.signal_cache.writer import discard_shard
from teachers.actor import TeacherSpec
from teachers.signal_cache.cache import (
    MANIFEST,
    READING,
    SHARDS,
    TOKENIZER,
    SignalCache,
    read_manifest,
)
from teachers.signal_cache.manifest import ShardFacts
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def open_cache_folder(
    folder: Path, spec: TeacherSpec, config: RunConfig, setup: Setup, place: str
) -> int:
    """Make the folder with manifest and tokenizer, or mend the one that is of the same signals.

    Gives the number of shards that were damaged. Nothing is deleted before the folder is known to
    be a cache of these signals.

    Args:
        folder: absolute.
        spec: what the teacher is built from.
        config: the run.
        setup: its tokenizers and documents.
        place: key or option that names the folder, for messages.

    Raises:
        ConfigError: the folder holds something else, or other signals; tells the difference.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).is_file():
        found = list(
            manifest_differences(read_manifest(folder), manifest_of(spec, config, setup, {}))
        )
        if found:
            raise ConfigError(
                f"{place}: {folder} holds other signals than this run's:\n  "
                + "\n  ".join(found)
                + "\nSet these back, or choose another folder"
            )
        return _mend(folder)
    if strange := _strange(folder):
        raise ConfigError(
            f"{place}: {folder} holds {strange[0]} but no {MANIFEST}; expected an empty folder, or "
            "one that a capture began"
        )
    files = _write_tokenizer(tokenizer_of(setup, spec.name), folder)
    text = manifest_of(spec, config, setup, files).model_dump_json(indent=2)
    atomic_write_text(folder / MANIFEST, text + "\n")
    return _mend(folder)


def _strange(folder: Path) -> list[str]:
    """What no capture leaves before its manifest: that begins with ``READING``, has no shard."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return sorted(names - {READING, TOKENIZER} if READING in names else names)


def _write_tokenizer(tokenizer: Tokenizer, folder: Path) -> dict[str, str]:
    """Write the tokenizer twice: as it was read, and for ``transformers``; gives the digests."""
    atomic_write_bytes(folder / READING, tokenizer.reading.to_bytes())
    with atomic_folder(folder / TOKENIZER, replace=True) as partial:
        tokenizer.fast.save_pretrained(partial)
    paths = [folder / READING, *(p for p in (folder / TOKENIZER).rglob("*") if p.is_file())]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def _mend(folder: Path) -> int:
    """Delete what cannot be used, so that it is asked for again; every shard is read."""
    remove_leftovers(folder)
    if not (folder / SHARDS).is_dir():
        return 0
    remove_leftovers(folder / SHARDS)
    count = sum(_discard_damaged(path) for path in sorted((folder / SHARDS).glob("*.json")))
    for shard, flaw in SignalCache.open(folder).flaws(read_all=True):
        log.warning("%s %s; it is made again", shard.path, flaw)
        discard_shard(shard)
        count += 1
    return count


def _discard_damaged(path: Path) -> bool:
    """Delete a shard's ``.json`` that cannot be read; True if it was."""
    try:
        ShardFacts.model_validate_json(path.read_bytes())
    except ValidationError:
        log.warning("%s is damaged; its shard is made again", path)
        path.unlink()
        return True
    return False
