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
    read_manifest,
    stored_shards,
)
from teachers.signal_cache.manifest import ShardFacts
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def open_cache_folder(
    folder: Path, spec: TeacherSpec, config: RunConfig, setup: Setup, place: str
) -> None:
    """Make the folder with manifest and tokenizer, or check that it is of the same signals.

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
        return
    if strange := sorted(path.name for path in folder.iterdir() if not _is_ours(path)):
        raise ConfigError(
            f"{place}: {folder} holds {strange[0]} but no {MANIFEST}; expected an empty folder, or "
            "one that a capture began"
        )
    files = _write_tokenizer(tokenizer_of(setup, spec.name), folder)
    text = manifest_of(spec, config, setup, files).model_dump_json(indent=2)
    atomic_write_text(folder / MANIFEST, text + "\n")


def _is_ours(path: Path) -> bool:
    return path.name.startswith(".") or path.name in (READING, TOKENIZER, SHARDS)


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


def mend(folder: Path) -> int:
    """Delete what cannot be used, so that it is asked for again; gives the number of shards.

    Every shard is read.
    """
    remove_leftovers(folder)
    if not (folder / SHARDS).is_dir():
        return 0
    remove_leftovers(folder / SHARDS)
    count = sum(_discard_damaged(path) for path in sorted((folder / SHARDS).glob("*.json")))
    for shard in stored_shards(folder):
        if (flaw := shard.flaw) is not None:
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
