"""``tutelage capture``: ask a live teacher once for all that a run needs of it, and keep it.

Documents are asked for in the groups in which the run itself would ask in its first epoch, since
the last bits of a signal depend on its batch. So training from the cache equals the live run.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from losses.document import Document
from orchestrator.cluster import Machine
from orchestrator.config import Resources, RunConfig
from orchestrator.config.messages import unknown
from orchestrator.data import documents_of_step
from orchestrator.environment import num_cpus
from orchestrator.errors import ConfigError, ResourcesError
from orchestrator.gates.chosen import FIRST
from orchestrator.run_folder import locked
from orchestrator.setup import Setup, set_up
from orchestrator.signal_cache.facts import teacher_of
from orchestrator.signal_cache.folder import open_cache_folder
from orchestrator.signal_cache.writer import CacheWriter
from orchestrator.specs import teacher_specs, with_longest
from orchestrator.stream import StepBatch
from teachers.actor import TeacherSpec
from teachers.document_signals import DocumentSignals
from teachers.signal_cache.cache import SignalCache
from teachers.speaker import Speaker

SHARD_BYTES = 1 << 26
"""A shard is written once its signals take so many bytes."""

SPARE = 1.1
"""What is needed on the disk for each byte of signals that is still to come."""


@dataclass(frozen=True)
class Captured:
    """What a capture came to.

    Args:
        folder: of the cache; absolute.
        num_documents: those that it now has signals of.
        num_asked: those that were asked for this time.
        num_scores: held-out documents with the teacher's score.
        num_shards: files of arrays.
        num_bytes: of all of them.
        num_mended: shards that were missing or damaged before.
    """

    folder: str
    num_documents: int
    num_asked: int
    num_scores: int
    num_shards: int
    num_bytes: int
    num_mended: int


def capture(config: RunConfig, name: str, folder: Path, *, resume: bool = False) -> Captured:
    """Write a teacher's signals of the training text and its scores of the held-out text.

    Args:
        config: the run whose first epoch is captured.
        name: of the teacher.
        folder: the cache.
        resume: go on with what is there; shards that are damaged are made again.

    Raises:
        ConfigError: the run file is wrong, or the folder holds other signals.
        ResourcesError: the disk has no room.
    """
    folder = folder.absolute()
    _check_request(config, name, folder, resume=resume)
    setup = set_up(config)
    spec = with_longest(capture_spec(config, name), setup)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        num_mended = open_cache_folder(folder, spec, config, setup, "--output")
        num_asked = capture_into(folder, spec, config, setup)
    return _summary(folder, num_asked, num_mended)


def capture_into(folder: Path, spec: TeacherSpec, config: RunConfig, setup: Setup) -> int:
    """Ask for what the folder lacks; gives the number of documents asked for."""
    writer = CacheWriter(folder)
    writer.refresh()
    torch.set_num_threads(spec.threads)
    teacher = spec.build()
    groups = [*first_epoch(setup.train.documents, config), *_checked(setup, config)]
    asking = Asking(spec.name, teacher, writer)
    asking.ask(groups)
    held_out = setup.held_out.documents
    if writer.unknown(held_out, "scores"):
        writer.write_scores(held_out, teacher.evaluate(held_out))
    if any(method.needs_teacher_head for method in spec.methods) and not writer.has_head:
        writer.write_head(teacher.head_weights())
    return asking.num_asked


def capture_spec(config: RunConfig, name: str) -> TeacherSpec:
    """What the teacher is built from in this process, where no student takes a GPU."""
    machine = Machine(num_cpus=num_cpus(), num_gpus=float(torch.cuda.device_count()))
    away = config.student.model_copy(update={"device": "cpu", "resources": Resources()})
    teachers = (teacher_of(config, name),)
    alone = config.model_copy(update={"teachers": teachers, "student": away})
    return teacher_specs(alone, machine)[0]


def first_epoch(documents: Sequence[Document], config: RunConfig) -> Iterator[Sequence[Document]]:
    """What a teacher is asked in one call, in the order of a run, until every document came.

    The last step may hold documents of the second epoch: they are part of its batch.
    """
    batch, ranks = config.train.global_batch, config.student.num_ranks
    for step in range(-(-len(documents) // batch)):
        chosen = documents_of_step(documents, step, batch, config.train.seed)
        yield from StepBatch.of(step, chosen, ranks).shards


def _checked(setup: Setup, config: RunConfig) -> list[Sequence[Document]]:
    """The documents that checks may read of every teacher, wherever training sends them."""
    if config.mixture.routing is None:
        return []
    return [[replace(document, teachers=None) for document in setup.train.documents[:FIRST]]]


@dataclass
class Asking:
    """A teacher that is asked for groups of documents, and what is not written yet.

    Args:
        name: of the teacher.
        teacher: the live one.
        writer: where its answers go.
    """

    name: str
    teacher: Speaker
    writer: CacheWriter
    num_asked: int = 0
    documents: list[Document] = field(default_factory=list)
    rows: list[DocumentSignals] = field(default_factory=list)
    pending: set[str] = field(default_factory=set)
    """Digests of ``documents``."""
    num_bytes: int = 0
    """Of ``rows``."""
    left: dict[str, int] = field(default_factory=dict)
    """Bytes of text of each document that is not written yet, by digest."""

    def ask(self, groups: Sequence[Sequence[Document]]) -> None:
        """Ask for each group with a document that is not stored; write shard by shard.

        Raises:
            ResourcesError: the disk has no room for all that is to come.
        """
        for group in groups:
            self.left |= {
                group[place].digest: len(group[place].content) for place in self._new(group)
            }
        total = sum(map(len, groups))
        with tqdm(total=total, desc=self.name, unit="document", dynamic_ncols=True) as bar:
            for group in groups:
                self._ask(group)
                bar.update(len(group))
        self._flush()

    def _new(self, group: Sequence[Document]) -> list[int]:
        """Places of a group's documents that go to the teacher and were not asked for."""
        own = [place for place, document in enumerate(group) if document.goes_to(self.name)]
        unknown = self.writer.unknown([group[place] for place in own], "signals")
        return [own[i] for i in unknown if group[own[i]].digest not in self.pending]

    def _ask(self, group: Sequence[Document]) -> None:
        if not (new := self._new(group)):
            return
        rows = self.teacher.signals(group)
        self.documents += [group[place] for place in new]
        self.rows += [rows[place] for place in new]
        self.pending |= {group[place].digest for place in new}
        self.num_bytes += sum(signal.num_bytes for place in new for signal in rows[place])
        if not self.num_asked:
            self._require_space()
        self.num_asked += len(new)
        if self.num_bytes >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self.documents:
            self._require_space()
            self.writer.write_signals(self.documents, self.rows)
            for digest in self.pending:
                del self.left[digest]
            self.documents, self.rows, self.pending, self.num_bytes = [], [], set(), 0

    def _require_space(self) -> None:
        """Refuse to go on without room for what is left, if it is like what is pending."""
        text = sum(len(document.content) for document in self.documents)
        per_byte = self.num_bytes / max(1, text)
        needed = int(SPARE * per_byte * sum(self.left.values()))
        free = shutil.disk_usage(self.writer.folder).free
        if needed > free:
            raise ResourcesError(
                f"--output: the signals of {len(self.left)} documents need about {needed:,} bytes, "
                f"but only {free:,} are free in {self.writer.folder}; free some space and go on "
                "with --resume, or choose methods whose signals are smaller (tutelage methods)"
            )


def _check_request(config: RunConfig, name: str, folder: Path, *, resume: bool) -> None:
    """Refuse what can be told from the run file and the folder's name.

    Raises:
        ConfigError: no such teacher, one whose signals cannot be kept, or a folder in use.
    """
    names = [teacher.name for teacher in config.teachers]
    if name not in names:
        raise ConfigError(f"--teacher: {unknown('teacher', name, names)}")
    teacher = teacher_of(config, name)
    if teacher.kind == "cache" or teacher.refresh is not None or teacher.share_weights:
        raise ConfigError(
            f"--teacher: {name} is a cache already, or follows or shares the student's weights; "
            "expected a live teacher with weights of its own"
        )
    if not resume and folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"--output: {folder} is not empty; pass --resume to go on with the capture in it, or "
            "choose another folder"
        )


def _summary(folder: Path, num_asked: int, num_mended: int) -> Captured:
    cache = SignalCache.open(folder)
    shards = [shard.facts for shard in cache.shards]
    return Captured(
        folder=str(folder),
        num_documents=len(
            {digest for facts in shards if facts.holds == "signals" for digest in facts.documents}
        ),
        num_asked=num_asked,
        num_scores=len(cache.scored_digests()),
        num_shards=len(shards),
        num_bytes=sum(facts.num_bytes for facts in shards),
        num_mended=num_mended,
    )
