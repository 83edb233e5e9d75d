"""What teachers send: bytes of signals for each token, step and document, and their origin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from orchestrator.config import TeacherConfig
from orchestrator.planning.served import answer_bytes
from orchestrator.planning.signal_sizes import Speaker, bytes_per_token
from orchestrator.planning.workload import Reading
from teachers.server.source import ServerSource
from teachers.teacher_source import TeacherSource

ENVELOPE = 600
"""Bytes around the fields of a signal (measured by ``benchmarks/wire.py``)."""

Origin: TypeAlias = Literal["model", "server", "cache", "student"]
"""What makes the signals: a model in a process of its own, a server, a folder that has them, the
student's rank itself."""


@dataclass(frozen=True)
class Wire:
    """One teacher's signals.

    Args:
        origin: what makes them.
        per_token: bytes of each method's fields.
        fields_per_step: bytes of a step's fields.
        per_step: bytes of a step from the teacher's process to the ranks, with envelopes.
        largest_step: of the largest step, whether they are sent or made in the rank.
        stored: bytes of the signals of all training documents, as a cache on disk would hold them.
        once: bytes that go out once: the head of a teacher whose hidden states are sent.
        read_per_step: bytes of a step that its process itself gets: a server's answers, or what it
            reads from the disk.
        requests_per_step: that a server gets.
    """

    origin: Origin
    per_token: Mapping[str, float]
    fields_per_step: int
    per_step: int
    largest_step: int
    stored: int
    once: int
    read_per_step: int = 0
    requests_per_step: float = 0.0


def wire_of(
    teacher: TeacherConfig,
    source: TeacherSource,
    speaker: Speaker,
    read: Reading,
    num_documents: int,
) -> Wire:
    """What a teacher sends with the methods that it feeds.

    Args:
        teacher: its part of the run file.
        source: where its signals come from.
        speaker: its numbers.
        read: its documents.
        num_documents: of training that it reads.
    """
    found = {entry.name: bytes_per_token(entry.method, speaker) for entry in teacher.methods}
    each, envelopes = sum(found.values()), ENVELOPE * len(found)
    sent = each * read.tokens_per_step + envelopes * read.documents_per_step
    mean = each * read.mean_length + envelopes
    heads = any(entry.method.needs_teacher_head for entry in teacher.methods)
    origin = origin_of(teacher)
    got = sent if origin == "cache" else 0.0
    if isinstance(source, ServerSource):
        got = answer_bytes(source) * read.tokens_per_step
    most = max((each * sum(step) + envelopes * len(step) for step in read.steps), default=0.0)
    return Wire(
        origin=origin,
        per_token=found,
        fields_per_step=round(each * read.tokens_per_step),
        per_step=0 if origin == "student" else round(sent),
        largest_step=round(most),
        stored=round(mean * num_documents),
        once=speaker.vocabulary * speaker.hidden * speaker.dtype.itemsize if heads else 0,
        read_per_step=round(got),
        requests_per_step=read.documents_per_step if origin == "server" else 0.0,
    )


def origin_of(teacher: TeacherConfig) -> Origin:
    """What makes a teacher's signals."""
    if teacher.share_weights:
        return "student"
    origins: Mapping[str, Origin] = {"openai": "server", "cache": "cache"}
    return origins.get(teacher.kind, "model")
