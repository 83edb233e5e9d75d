"""Writes a teacher's answers into a signal cache, each document's once, shard by shard.

A shard's arrays are written aside, forced to disk and renamed, then its ``.json`` in the same way:
a killed process leaves whole shards, or files that do not count. Several processes may write into
one folder, since a shard is named by the digests of its documents.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from losses.document import Document
from orchestrator.atomic import atomic_write_bytes
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.signal_cache.cache import SHARDS, StoredShard, read_manifest, stored_shards
from teachers.signal_cache.manifest import ShardFacts
from teachers.signal_cache.shard import encode
from teachers.signal_cache.tables import encode_head, encode_scores


class CacheWriter:
    """Writes into a folder that has a manifest.

    Args:
        folder: of the cache; absolute.
        checked: digests of the documents that the checks before the first step read. What is asked
            there comes in another group than the steps', so it is not written.
        only_checked: those of them that the teacher gets in no step; they are written.
    """

    def __init__(
        self, folder: Path, checked: Sequence[str] = (), only_checked: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self._teacher = read_manifest(folder).teacher.fingerprint
        self._checked = set(checked)
        self._only_checked = set(only_checked)
        self._known: dict[str, set[str]] = {"signals": set(), "scores": set(), "head": set()}
        self._seen: set[Path] = set()

    def unknown(
        self, documents: Sequence[Document], holds: Literal["signals", "scores"]
    ) -> list[int]:
        """Places of the documents that are not stored, of equal ones the first."""
        new: dict[str, int] = {}
        for place, document in enumerate(documents):
            if document.digest not in self._known[holds]:
                new.setdefault(document.digest, place)
        return list(new.values())

    def refresh(self) -> None:
        """Take note of what lies in the folder, whoever wrote it."""
        for shard in stored_shards(self.folder, besides=self._seen):
            self._note(shard)

    def write_signals(self, documents: Sequence[Document], rows: Sequence[DocumentSignals]) -> None:
        """Store the signals of the documents that have none yet, as one shard."""
        new = self._new(documents, "signals")
        if self._is_check(documents):
            new = [place for place in new if documents[place].digest in self._only_checked]
        if new:
            content = encode([rows[place] for place in new])
            self._write("signals", [documents[place].digest for place in new], content)

    def write_scores(self, documents: Sequence[Document], scores: Sequence[DocumentScore]) -> None:
        """Store the scores of the documents that have none yet, as one shard."""
        if new := self._new(documents, "scores"):
            content = encode_scores([scores[place] for place in new])
            self._write("scores", [documents[place].digest for place in new], content)

    def write_head(self, head: HeadWeights) -> None:
        """Store the head, unless there is one."""
        self.refresh()
        if not self.has_head:
            self._write("head", [], encode_head(head))

    @property
    def has_head(self) -> bool:
        """True if a head is stored."""
        return any(path.name.startswith("head-") for path in self._seen)

    def _new(self, documents: Sequence[Document], holds: Literal["signals", "scores"]) -> list[int]:
        """As ``unknown``; the folder is looked at only if something seems to be new."""
        if self.unknown(documents, holds):
            self.refresh()
        return self.unknown(documents, holds)

    def _is_check(self, documents: Sequence[Document]) -> bool:
        """True for the documents of the checks when they are asked for the first time."""
        digests = {document.digest for document in documents}
        trained = self._checked - self._only_checked
        if not digests <= self._checked or trained & self._known["signals"]:
            return False
        self._checked -= digests
        return True

    def _write(
        self, holds: Literal["signals", "scores", "head"], digests: list[str], content: bytes
    ) -> None:
        name = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        path = self.folder / SHARDS / f"{holds}-{name}.safetensors"
        facts = ShardFacts(
            holds=holds,
            teacher=self._teacher,
            num_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            documents=tuple(digests),
        )
        atomic_write_bytes(path, content)
        text = facts.model_dump_json(indent=1) + "\n"
        atomic_write_bytes(path.with_suffix(".json"), text.encode())
        self._note(StoredShard(path, facts))

    def _note(self, shard: StoredShard) -> None:
        self._seen.add(shard.path)
        self._known[shard.facts.holds].update(shard.facts.documents)


def discard_shard(shard: StoredShard) -> None:
    """Delete a shard; what says that it is there goes first."""
    shard.path.with_suffix(".json").unlink()
    shard.path.unlink(missing_ok=True)
