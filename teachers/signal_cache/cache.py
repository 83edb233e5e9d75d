"""A folder of signals, opened: what is there, whether it is whole, and what it says."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from losses.document import Document
from teachers.chat import TemplateChoice
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.reading import Reading
from teachers.signal_cache.manifest import Manifest, ShardFacts
from teachers.signal_cache.shard import Shard
from teachers.signal_cache.tables import decode_head, decode_scores
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

MANIFEST = "manifest.json"
SHARDS = "shards"
READING = "tokenizer.safetensors"
TOKENIZER = "tokenizer"
OPEN_SHARDS = 64
"""Files that are open at once."""


@dataclass(frozen=True)
class StoredShard:
    """One file of arrays and what its ``.json`` says of it."""

    path: Path
    facts: ShardFacts

    @property
    def size_flaw(self) -> str | None:
        """What is wrong with the file, told without reading it; None if nothing is."""
        if not self.path.is_file():
            return "is missing"
        if (size := self.path.stat().st_size) != self.facts.num_bytes:
            return f"has {size} bytes, was written with {self.facts.num_bytes}"
        return None

    @property
    def flaw(self) -> str | None:
        """The same after reading it all."""
        if (flaw := self.size_flaw) is not None:
            return flaw
        same = _sha256(self.path) == self.facts.sha256
        return None if same else "has another content than was written"


class SignalCache:
    """The manifest and shards of a folder; signals and scores by a document's digest.

    Args:
        folder: absolute.
        manifest: as it lies there.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.shards = list(stored_shards(folder))
        self._places = _places(self.shards, "signals")
        self._opened = lru_cache(maxsize=OPEN_SHARDS)(Shard)

    @classmethod
    def open(cls, folder: Path) -> "SignalCache":
        """Read manifest and shards' facts; no array is read.

        Raises:
            ValueError: the folder is no signal cache, or its manifest is damaged.
        """
        return cls(folder, read_manifest(folder))

    def has_signals(self, document: Document) -> bool:
        """True if the document's signals are stored."""
        return document.digest in self._places

    def signals(self, document: Document, places: Sequence[int] | None = None) -> DocumentSignals:
        """A document's signals, in the order of the manifest's methods; then the score, if stored.

        Args:
            document: found by its digest.
            places: read only these of the row; None reads all.

        Raises:
            ValueError: they are not here.
        """
        if document.digest not in self._places:
            raise ValueError(
                f"{self.folder} has no signals of document {document.name}; its text was not "
                "captured, or was cut elsewhere: capture the text of this run"
            )
        shard, place = self._places[document.digest]
        return self._opened(shard.path).row(place, places)

    def scores(self) -> dict[str, DocumentScore]:
        """The stored scores by a document's digest."""
        found: dict[str, DocumentScore] = {}
        for shard in self.shards:
            if shard.facts.holds == "scores":
                rows = decode_scores(shard.path.read_bytes())
                found |= dict(zip(shard.facts.documents, rows, strict=True))
        return found

    def scored_digests(self) -> set[str]:
        """Digests of the documents that have a score; no file of arrays is read."""
        shards = (shard.facts for shard in self.shards if shard.facts.holds == "scores")
        return {digest for facts in shards for digest in facts.documents}

    @property
    def has_head(self) -> bool:
        """True if the teacher's head is stored."""
        return any(shard.facts.holds == "head" for shard in self.shards)

    def head(self) -> HeadWeights:
        """The teacher's head.

        Raises:
            ValueError: it was not stored.
        """
        for shard in self.shards:
            if shard.facts.holds == "head":
                return decode_head(shard.path.read_bytes())
        raise ValueError(f"{self.folder} holds no head; {self.how_to_recapture}")

    def tokenizer(self, name: str) -> Tokenizer:
        """The teacher's tokenizer, as the cache's teacher read with it.

        Raises:
            ValueError: a file of it is missing or damaged.
        """
        for path, digest in self.manifest.tokenizer.files.items():
            file = self.folder / path
            if not file.is_file() or _sha256(file) != digest:
                raise ValueError(
                    f"{file} is missing or has another content than was written; "
                    f"{self.how_to_recapture}"
                )
        facts = self.manifest.teacher
        template: TemplateChoice | None = "plain" if facts.template == "plain" else None
        source = ModelSource(str(self.folder / TOKENIZER), template=template)
        reading = Reading.from_bytes((self.folder / READING).read_bytes())
        tokenizer = Tokenizer.recall(reading, source, name)
        tokenizer.max_tokens = self.manifest.tokenizer.max_tokens
        tokenizer.hidden_size = self.manifest.tokenizer.hidden_size
        return tokenizer

    def flaws(self, *, read_all: bool) -> Iterator[tuple[StoredShard, str]]:
        """Shards that cannot be used, and why.

        Args:
            read_all: compare digests too, else files and sizes only.
        """
        teacher = self.manifest.teacher.fingerprint
        for shard in self.shards:
            if shard.facts.teacher != teacher:
                yield shard, "is of another cache, or the manifest was changed"
            elif (flaw := shard.flaw if read_all else shard.size_flaw) is not None:
                yield shard, flaw

    def check(self, *, read_all: bool) -> None:
        """Refuse a cache with a shard that is missing, damaged or of another teacher.

        Raises:
            ValueError: names every such shard, and what to do.
        """
        found = [
            f"{shard.path.name} {flaw} ({len(shard.facts.documents)} documents)"
            for shard, flaw in self.flaws(read_all=read_all)
        ]
        if found:
            raise ValueError(f"{self.folder}: {'; '.join(found)}; {self.how_to_recapture}")

    @property
    def how_to_recapture(self) -> str:
        """What makes again what is missing, in words."""
        name = self.manifest.teacher.name
        return (
            "make it again from the live teacher, the rest stays: tutelage capture RUN.yaml "
            f"--teacher {name} --output {self.folder} --resume"
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder} is no signal cache: {MANIFEST} is missing; expected a folder that "
            "tutelage capture or the key record wrote"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path} is damaged, or of another release: {key}: {first['msg']}"
        ) from error


def stored_shards(folder: Path, besides: Collection[Path] = ()) -> Iterator[StoredShard]:
    """Every shard whose ``.json`` is there, by name.

    Args:
        folder: of the cache.
        besides: shards that are known already.

    Raises:
        ValueError: such a file is damaged.
    """
    for path in sorted((folder / SHARDS).glob("[!.]*.json")):
        if path.with_suffix(".safetensors") in besides:
            continue
        try:
            facts = ShardFacts.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{path} is damaged; delete it, then capture what it stood for with --resume"
            ) from error
        yield StoredShard(path.with_suffix(".safetensors"), facts)


def _places(shards: Iterable[StoredShard], holds: str) -> dict[str, tuple[StoredShard, int]]:
    """Where each document lies; of several places the first."""
    found: dict[str, tuple[StoredShard, int]] = {}
    for shard in shards:
        if shard.facts.holds == holds:
            for place, digest in enumerate(shard.facts.documents):
                found.setdefault(digest, (shard, place))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
