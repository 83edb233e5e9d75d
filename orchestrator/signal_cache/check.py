"""Whether the caches that a run names hold what the run asks for, told before anything starts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from losses.document import Document
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.config.section import DEVICE_MAP
from orchestrator.data import documents_of_step
from orchestrator.errors import ConfigError
from orchestrator.gates.chosen import FIRST, spread
from orchestrator.known_tokenizers import load_tokenizer
from orchestrator.model_identity import model_identity
from orchestrator.sources import cache_path, teacher_source
from teachers.signal_cache.cache import SignalCache
from teachers.signal_cache.manifest import Manifest, differences, method_differences
from teachers.tokenizer import Tokenizer


def caches_of(config: RunConfig) -> Iterator[tuple[str, TeacherConfig, SignalCache]]:
    """The run's teachers of kind cache, with their place in the run file.

    Raises:
        ConfigError: a folder is no cache, or a shard of it is missing.
    """
    for index, teacher in enumerate(config.teachers):
        if teacher.kind == "cache":
            place = f"teachers[{index}] ({teacher.name})"
            try:
                cache = SignalCache.open(cache_path(teacher))
                cache.check(read_all=False)
            except ValueError as error:
                raise ConfigError(f"{place}.path: {error}") from error
            yield place, teacher, cache


def cached_tokenizer(place: str, teacher: TeacherConfig) -> Tokenizer:
    """The tokenizer of the teacher whose signals a cache holds.

    Raises:
        ConfigError: the folder is no cache, or the tokenizer in it is damaged; names the place.
    """
    try:
        return SignalCache.open(cache_path(teacher)).tokenizer(teacher.name)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def check_caches(config: RunConfig) -> None:
    """Refuse caches of other signals than the run's.

    Raises:
        ConfigError: lists every difference, key by key.
    """
    problems = [
        f"{place}.{text}"
        for place, teacher, cache in caches_of(config)
        for text in [*_problems(teacher, config, cache.manifest), *_lost_head(teacher, cache)]
    ]
    if problems:
        raise ConfigError(
            "\n".join(problems) + "\nSet these keys as the cache has them, or capture anew"
        )


def _problems(teacher: TeacherConfig, config: RunConfig, manifest: Manifest) -> Iterator[str]:
    for place, entry in enumerate(teacher.methods):
        for text in method_differences(manifest, entry.method):
            yield f"methods[{place}] ({entry.name}): {text}"
    asked = choices_of(teacher)
    cached = manifest.teacher.model_dump(mode="json")
    yield from differences({key: cached[key] for key in asked}, asked)
    asks = config.mixture.weights.asks
    if asks is not None and asks != manifest.teacher.asks:
        yield (
            f"asks: mixture.weights judges the teacher by its {asks}, the cache has "
            f"{manifest.teacher.asks or 'nothing of the kind'}"
        )
    if teacher.model is not None:
        yield from _model_differences(teacher, config, manifest)


def _lost_head(teacher: TeacherConfig, cache: SignalCache) -> Iterator[str]:
    reads = any(entry.method.needs_teacher_head for entry in teacher.methods)
    if reads and not cache.has_head:
        yield f"path: {cache.folder} holds no head; {cache.how_to_recapture}"


def choices_of(teacher: TeacherConfig) -> dict[str, Any]:
    """Keys of a teacher in the run file that decide its signals."""
    options = {k: v for k, v in teacher.model_options.items() if k != DEVICE_MAP}
    return {
        "dtype": teacher.dtype,
        "model_options": options,
        "template": teacher.template,
        "start_token": teacher.start_token,
    }


def _model_differences(
    teacher: TeacherConfig, config: RunConfig, manifest: Manifest
) -> Iterator[str]:
    """A model that is named beside the cache is whose signals it must hold."""
    try:
        source = teacher_source(teacher, config.student)
    except FileNotFoundError:  # an asset that is not fetched; that is told elsewhere
        return
    if (weights := model_identity(source)) != manifest.teacher.weights:
        yield f"model: the cache is of {manifest.teacher.weights}, {teacher.model} has {weights}"
    tokenizer = load_tokenizer(source, teacher.name, teacher.start_token)
    if tokenizer.fingerprint != manifest.teacher.tokenizer:
        yield (
            f"model: the cache is of the tokenizer {manifest.teacher.tokenizer[:16]}, "
            f"{teacher.model} has {tokenizer.fingerprint[:16]}"
        )


def check_cached_text(
    config: RunConfig,
    student: Tokenizer,
    train: Sequence[Document],
    held_out: Sequence[Document],
) -> None:
    """Refuse documents that a cache has not.

    Args:
        config: the run.
        student: the tokenizer in whose tokens documents are cut.
        train: training documents, cut.
        held_out: held-out documents, cut.

    Raises:
        ConfigError: says how many, which is the first, and what cut the text differently.
    """
    problems, read = [], documents_read(config, train)
    for place, teacher, cache in caches_of(config):
        wanted = [d for d in read if d.goes_to(teacher.name)]
        checked = [replace(d, teachers=None) for d in train[:FIRST]]
        wanted += spread(checked, config.checks.documents)
        scored = cache.scored_digests()
        lost = {
            "data.train": [d for d in wanted if not cache.has_signals(d)],
            "data.held_out": [d for d in held_out if d.digest not in scored],
        }
        problems += [
            f"{place}.path: {_lost(split, documents, cache)}"
            f"{_other_text(config, student, cache.manifest)}"
            for split, documents in lost.items()
            if documents
        ]
    if problems:
        raise ConfigError("\n".join(problems))


def documents_read(config: RunConfig, train: Sequence[Document]) -> Sequence[Document]:
    """Those that some step of the run reads, in the order of the text."""
    count = config.train.max_steps * config.train.global_batch
    if count >= len(train):
        return train
    read = {document.name for document in documents_of_step(train, 0, count, config.train.seed)}
    return [document for document in train if document.name in read]


def _lost(split: str, documents: Sequence[Document], cache: SignalCache) -> str:
    count = len({document.digest for document in documents})
    return (
        f"{count} documents of {split} are not in {cache.folder}, the first is "
        f"{documents[0].name}; capture the text of this run into another folder, or go on with a "
        "capture that was stopped: tutelage capture RUN.yaml --teacher "
        f"{cache.manifest.teacher.name} --output {cache.folder} --resume"
    )


def _other_text(config: RunConfig, student: Tokenizer, manifest: Manifest) -> str:
    """What cut the cache's documents otherwise, if something did."""
    found = []
    if manifest.data.max_length != config.data.max_length:
        found.append(
            f"data.max_length: the cache has {manifest.data.max_length}, the run asks for "
            f"{config.data.max_length}"
        )
    if manifest.data.student_tokenizer != student.fingerprint:
        found.append(
            "the student of the cache's run has another tokenizer, in whose tokens documents are "
            "cut to data.max_length: cut by another one they are other documents"
        )
    return "".join(f"\n  {text}" for text in found)


def describe_caches(config: RunConfig) -> Iterator[str]:
    """A line on each cache: how much it holds, and how near its signals are to a live teacher's."""
    for _, teacher, cache in caches_of(config):
        grouping = cache.manifest.grouping
        asked = {
            "seed": config.train.seed,
            "global_batch": config.train.global_batch,
            "num_ranks": config.student.num_ranks,
        }
        found = list(differences({key: getattr(grouping, key) for key in asked}, asked))
        nearness = f"to rounding ({'; '.join(found)})" if found else "to the last bit"
        count = sum(len(s.facts.documents) for s in cache.shards if s.facts.holds == "signals")
        yield (
            f"{teacher.name}: signals of {count} documents from {cache.folder}, those of the live "
            f"teacher {nearness}"
        )
