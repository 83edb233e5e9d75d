"""From a teacher's source to the teacher: what kinds there are."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from losses.document import Document
from teachers.backends.transformers import LanguageModel
from teachers.document_signals import DocumentSignals
from teachers.server.client import Client
from teachers.server.parity import Parity
from teachers.server.reference import reference_of
from teachers.server.source import ServerSource
from teachers.server.teacher import ServerTeacher
from teachers.signal_cache.cache import SignalCache
from teachers.signal_cache.parity import check_parity
from teachers.signal_cache.recording import RecordingTeacher
from teachers.signal_cache.source import CacheParity, CacheSource
from teachers.signal_cache.teacher import CacheTeacher
from teachers.snapshot import SnapshotTeacher
from teachers.source import ModelSource
from teachers.speaker import Speaker
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from teachers.actor import TeacherSpec

log = logging.getLogger(__name__)


def build_teacher(spec: "TeacherSpec") -> Speaker:
    """Load the tokenizer, and what the source names: weights, a server, a folder of signals.

    Raises:
        TypeError: no kind of teacher has such a source.
    """
    teacher = _built(spec)
    return teacher if spec.record is None else RecordingTeacher(spec.name, teacher, spec.record)


def _built(spec: "TeacherSpec") -> Speaker:
    match spec.source:
        case ModelSource():
            return _model(spec, spec.source)
        case ServerSource():
            return _served(spec, spec.source)
        case CacheSource():
            return _cached(spec, spec.source)
        case _:
            raise TypeError(f"teacher {spec.name}: no teacher has a {type(spec.source).__name__}")


def _model(spec: "TeacherSpec", source: ModelSource) -> Teacher:
    tokenizer = Tokenizer.load(source, spec.name, spec.start_token)
    model = LanguageModel.load(source, tokenizer, spec.device)
    kind = SnapshotTeacher if spec.follows else Teacher
    return kind(model, spec.methods, spec.token_budget, spec.asks)


def _served(spec: "TeacherSpec", source: ServerSource) -> ServerTeacher:
    tokenizer = Tokenizer.load(source.tokenizer, spec.name, spec.start_token)
    reference = reference_of(source.parity, tokenizer, spec.device)
    parity = Parity(spec.name, source.tolerance, reference)
    client = Client(source, spec.name)
    return ServerTeacher(client, tokenizer, spec.methods, parity, spec.asks)


def _cached(spec: "TeacherSpec", source: CacheSource) -> CacheTeacher:
    cache = SignalCache.open(Path(source.path))
    probe = None if source.parity is None else partial(_compare, spec, source.parity)
    return CacheTeacher(spec.name, cache, spec.methods, spec.asks, probe)


def _compare(
    spec: "TeacherSpec",
    parity: CacheParity,
    documents: Sequence[Document],
    stored: Sequence[DocumentSignals],
) -> None:
    """Hold stored signals against those of a live model, which is freed again."""
    tokenizer = Tokenizer.load(parity.model, spec.name, spec.start_token)
    model = LanguageModel.load(parity.model, tokenizer, spec.device)
    live = Teacher(model, spec.methods, spec.token_budget, spec.asks).signals(documents)
    worst = check_parity(documents, stored, live, parity.tolerance, f"teacher {spec.name}")
    log.info("teacher %s: its cache differs from model_parity by %.2g", spec.name, worst)
