"""What a run reads before any weight is loaded: tokenizers, documents, and whether they fit."""

import logging
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from losses.alignment.projection import Projection
from losses.base import Pair
from losses.document import Document
from losses.ensembles import ensemble_of
from orchestrator.agreement import Agreement, compare, template_doubts
from orchestrator.collection import without_collection
from orchestrator.config import RunConfig
from orchestrator.data import Prepared, load_documents, num_repeated, prepare
from orchestrator.errors import ConfigError
from orchestrator.identities import student_identity, teacher_identities
from orchestrator.known_tokenizers import load_tokenizer
from orchestrator.lora_check import check_lora
from orchestrator.projections import needed_projections
from orchestrator.recorded_sample import check_sample
from orchestrator.references import PARITY, TOKENIZER_PLACE, require_references, teacher_place
from orchestrator.routing import Routing, check_routed
from orchestrator.signal_cache.check import cached_tokenizer, check_cached_text, check_caches
from orchestrator.sources import student_source, tokenizer_source
from orchestrator.student.embeddings.options import BYTES
from orchestrator.student_tokenizer import student_tokenizer
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

STUDENT = "student"

Split: TypeAlias = Literal["train", "validation", "held_out"]


@dataclass(frozen=True)
class Setup:
    """Tokenizers (the student's first) and the documents that all of them read exactly.

    ``validation`` is as it was loaded; ``projections`` has W of each teacher that feeds a method
    which reads it; ``models`` says which weights each model has.
    """

    tokenizers: tuple[Tokenizer, ...]
    train: Prepared
    held_out: Prepared
    validation: tuple[Document, ...]
    projections: Mapping[str, Projection]
    models: Mapping[str, str]


def set_up(config: RunConfig, *, check: bool = True) -> Setup:
    """Load tokenizers and documents, and check every method on its pair of vocabularies.

    Args:
        config: the run.
        check: false leaves the methods to the caller, who checks those of each arm.

    Raises:
        ConfigError: something does not fit; names its place in the run file.
    """
    require_references(config)
    by_name, warnings = load_tokenizers(config)
    for warning in warnings:
        log.warning("%s", warning)
    if check:
        check_methods(config, by_name)
    check_lora(config)
    tokenizers = tuple(by_name.values())
    train = prepared(config, "train", read_split(config, "train"), tokenizers)
    check_routed(train.documents, [teacher.name for teacher in config.teachers])
    held_out = prepared(config, "held_out", read_split(config, "held_out"), tokenizers)
    check_cached_text(config, tokenizers[0], train.documents, held_out.documents)
    for warning in doubts_about(config, tokenizers[0], train, held_out):
        log.warning("%s", warning)
    return Setup(
        tokenizers=tokenizers,
        train=train,
        held_out=held_out,
        validation=tuple(read_split(config, "validation")),
        projections=needed_projections(config, by_name[STUDENT], by_name),
        models={STUDENT: student_identity(config)} | teacher_identities(config),
    )


def load_tokenizers(
    config: RunConfig, left_out: Collection[str] = ()
) -> tuple[dict[str, Tokenizer], list[str]]:
    """Tokenizers by the names of their models, the student's first, and warnings about them.

    Args:
        config: the run.
        left_out: YAML paths of models that are not there.

    Raises:
        ConfigError: a tokenizer cannot be loaded, or is not that of its model or sample.
    """
    loader = _Loader()
    found: dict[str, Tokenizer] = {}
    if "student.init" not in left_out:
        own = loader.load("student.init", student_source(config.student), STUDENT)
        if TOKENIZER_PLACE not in left_out:
            found[STUDENT] = student_tokenizer(config.student, own, loader.warnings)
    for index, teacher in enumerate(config.teachers):
        place = teacher_place(config, index)
        if teacher.path is not None:
            found[teacher.name] = cached_tokenizer(place, teacher)
        elif place not in left_out:
            source, start = tokenizer_source(teacher, config.student), teacher.start_token
            found[teacher.name] = loader.load(
                place, source, teacher.name, start, alone=teacher.server is not None
            )
            check_sample(teacher_place(config, index, PARITY), teacher, found[teacher.name])
    return found, loader.warnings


@dataclass
class _Loader:
    """Loads each tokenizer once, however many models share it."""

    warnings: list[str] = field(default_factory=list)
    loaded: dict[tuple[object, ...], Tokenizer] = field(default_factory=dict)

    def load(
        self,
        place: str,
        source: ModelSource,
        name: str,
        start: str | None = None,
        *,
        alone: bool = False,
    ) -> Tokenizer:
        """The tokenizer; ``alone`` if no model's configuration is there to compare it with."""
        files = (source.path, source.revision, source.trust_remote_code)
        key = (*files, source.template, start, alone)
        if key not in self.loaded:
            self.loaded[key] = self._load(place, source, name, start, alone=alone)
        tokenizer = copy(self.loaded[key])
        tokenizer.name = name
        return tokenizer

    def _load(
        self, place: str, source: ModelSource, name: str, start: str | None, *, alone: bool
    ) -> Tokenizer:
        try:
            with without_collection():
                tokenizer = load_tokenizer(source, name, start)
            if alone:
                agreement = Agreement(warnings=list(template_doubts(tokenizer)))
            else:
                agreement = compare(source, tokenizer)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{place}: cannot load the tokenizer of {source.path}: {error}"
            ) from error
        if agreement.errors:
            raise ConfigError("\n".join(f"{place}: {text}" for text in agreement.errors))
        self.warnings += [f"{place}: {text}" for text in agreement.warnings]
        tokenizer.max_tokens = agreement.max_tokens
        tokenizer.hidden_size = agreement.hidden_size
        return tokenizer


def check_methods(config: RunConfig, tokenizers: Mapping[str, Tokenizer]) -> None:
    """Check each method on its pair of vocabularies, where both are there.

    Raises:
        ConfigError: a method cannot work for its pair, or a cache has other signals.
    """
    check_caches(config)
    for index, teacher in enumerate(config.teachers):
        if STUDENT in tokenizers and teacher.name in tokenizers:
            pair = _pair(tokenizers[STUDENT], tokenizers[teacher.name])
            _check_methods(config, index, pair)


def _pair(student: Tokenizer, teacher: Tokenizer) -> Pair:
    return Pair(
        student.vocabulary,
        teacher.vocabulary,
        student_width=student.hidden_size,
        teacher_width=teacher.hidden_size,
    )


def _check_methods(config: RunConfig, index: int, pair: Pair) -> None:
    teacher, mean = config.teachers[index], config.mixture.ensemble
    for place, entry in enumerate(teacher.methods):
        try:
            if mean is None:
                entry.method.check(pair)
            else:
                ensemble_of(entry.name, entry.method, mean).check(pair)
            entry.method.check_widths(pair)
        except ValueError as error:
            raise ConfigError(
                f"teachers[{index}] ({teacher.name}).methods[{place}] ({entry.name}): {error}"
            ) from error


def prepared(
    config: RunConfig,
    split: Split,
    documents: Sequence[Document],
    tokenizers: Sequence[Tokenizer],
) -> Prepared:
    """The documents of a split that all tokenizers read exactly, cut to length.

    Raises:
        ConfigError: no document is left.
    """
    _check_templates(split, documents, tokenizers)
    try:
        return prepare(documents, tokenizers, config.data.max_length)
    except ConfigError as error:
        raise ConfigError(f"data.{split}: {error}") from error


def _check_templates(
    split: Split, documents: Sequence[Document], tokenizers: Sequence[Tokenizer]
) -> None:
    chats = (document.name for document in documents if document.is_chat)
    if (chat := next(chats, None)) is None:
        return
    for tokenizer in tokenizers:
        if (flaw := tokenizer.chat.flaw) is not None:
            raise ConfigError(
                f"data.{split}: {chat} is a chat, but the chat template of {tokenizer.name} cannot "
                f"be used ({flaw}); repair it, or set {tokenizer.name}'s key template: plain"
            )


def doubts_about(
    config: RunConfig, student: Tokenizer, train: Prepared, held_out: Prepared
) -> list[str]:
    """What is worth a warning in documents that can be used."""
    doubts, limit = [], student.max_tokens
    if limit is not None and limit < config.data.max_length:
        doubts.append(
            f"data.max_length: {config.data.max_length} is more than the {limit} tokens that the "
            "student reads; documents are cut there"
        )
    if config.student.tokenizer == BYTES and train.num_cut:
        doubts.append(
            f"data.max_length: {train.num_cut} of {len(train.documents)} training documents are "
            f"cut to {config.data.max_length} bytes; a token of student.init holds about 4, so a "
            "student of bytes needs 4 times the length to read the same text"
        )
    if count := num_repeated(held_out.documents, train.documents):
        doubts.append(
            f"data.held_out: {count} of {len(held_out.documents)} documents are in data.train as "
            "well; what is measured on them is no measure of unseen text"
        )
    return doubts


def read_split(config: RunConfig, split: Split, left_out: Collection[str] = ()) -> list[Document]:
    """The documents of a split as they are in its files, but for those at a path left out.

    Raises:
        ConfigError: a row is wrong, or there is none.
    """
    data = config.data
    files, limit = {
        "train": (data.train, data.train_limit),
        "validation": (data.validation, None),
        "held_out": (data.held_out, data.held_out_limit),
    }[split]
    present = [f for i, f in enumerate(files) if f"data.{split}[{i}]" not in left_out]
    routing = Routing.of(config) if split == "train" else None
    documents = load_documents(present, limit, routing)
    if present and not documents:
        raise ConfigError(f"data.{split}: no document in {', '.join(present)}; expected JSON lines")
    return documents


def describe(prepared: Prepared, names: Sequence[str]) -> str:
    """One line on some documents: how many, how long, and what was cut or left out."""
    text = f"{len(prepared.documents)} documents, {prepared.num_scored_bytes:,} scored bytes"
    if prepared.num_cut:
        text += f", {prepared.num_cut} cut to length"
    if prepared.num_unscored:
        text += f", {prepared.num_unscored} left out: nothing scored within max_length"
    for name in names:
        for reason, count in prepared.reasons[name].items():
            text += f", {count} left out by {name}: {reason}"
        if count := prepared.straddling[name]:
            text += f", {count} tokens of {name} straddle a border and do not count"
    return text
