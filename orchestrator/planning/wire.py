"""What teachers send: bytes of signals for each token, step and document."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config import TeacherConfig
from orchestrator.planning.signal_sizes import Speaker, bytes_per_token
from orchestrator.planning.skeleton import Sizes
from orchestrator.planning.workload import Reading
from teachers.source import ModelSource

ENVELOPE = 600
"""Bytes around the fields of a signal (measured by ``benchmarks/wire.py``)."""


@dataclass(frozen=True)
class Wire:
    """One teacher's signals.

    Args:
        per_token: bytes of each method's fields.
        fields_per_step: bytes of a step's fields.
        per_step: the same with envelopes.
        stored: bytes of the signals of all training documents, as a cache on disk would hold them.
        once: bytes that go out once: the head of a teacher whose hidden states are sent.
    """

    per_token: Mapping[str, float]
    fields_per_step: int
    per_step: int
    stored: int
    once: int


def wire_of(
    teacher: TeacherConfig, source: ModelSource, sizes: Sizes, read: Reading, num_documents: int
) -> Wire:
    """What a teacher sends with the methods that it feeds.

    Args:
        teacher: its part of the run file.
        source: how its weights are read.
        sizes: its numbers.
        read: its documents.
        num_documents: of training.
    """
    speaker = Speaker(sizes.vocabulary, sizes.hidden, source.torch_dtype, read.bytes_per_token)
    found = {entry.name: bytes_per_token(entry.method, speaker) for entry in teacher.methods}
    envelopes = ENVELOPE * len(found)
    a_document = sum(found.values()) * read.mean_length + envelopes
    num_asked = sum(map(len, read.steps)) / max(1, len(read.steps))
    heads = any(entry.method.needs_teacher_head for entry in teacher.methods)
    fields = sum(found.values()) * read.tokens_per_step
    return Wire(
        per_token=found,
        fields_per_step=round(fields),
        per_step=round(fields + envelopes * num_asked),
        stored=round(a_document * num_documents),
        once=sizes.vocabulary * sizes.hidden * sizes.element if heads else 0,
    )
