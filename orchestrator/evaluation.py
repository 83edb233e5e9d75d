"""Bits per byte on held-out documents, and how sure a difference between two models is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from losses.document import Document
from orchestrator.data import load_documents, prepare
from orchestrator.loading import check_device, source_of
from orchestrator.student.ngram_model import make_known
from teachers.backends.transformers import LanguageModel
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte, score
from teachers.tokenizer import Tokenizer

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Lead:
    """By how many bits per byte one model is better; ``low`` and ``high`` bound 95 %."""

    value: float
    low: float
    high: float


def lead(
    ours: Sequence[DocumentScore],
    theirs: Sequence[DocumentScore],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Lead:
    """The lead of ``ours`` over ``theirs``, with a bootstrap interval over documents.

    Both score the same documents in the same order. Documents are resampled in pairs, so what
    makes a document hard for both models cancels.

    Raises:
        ValueError: the two scored different bytes.
    """
    if [s.num_bytes for s in ours] != [s.num_bytes for s in theirs]:
        raise ValueError("the two models scored different bytes, so they cannot be compared")
    nats = np.array([b.nats - a.nats for a, b in zip(ours, theirs, strict=True)])
    bits, sizes = nats / math.log(2), np.array([float(s.num_bytes) for s in ours])
    drawn = np.random.default_rng(seed).integers(len(bits), size=(num_resamples, len(bits)))
    leads: Float64[np.ndarray, "resample"] = bits[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(leads, [0.025, 0.975])
    return Lead(float(bits.sum() / sizes.sum()), float(low), float(high))


def by_data_set(documents: Sequence[Document], scores: Sequence[DocumentScore]) -> dict[str, float]:
    """Bits per byte of each data file, by its name in the run file."""
    groups: dict[str, list[DocumentScore]] = {}
    for document, row in zip(documents, scores, strict=True):
        groups.setdefault(document.name.rsplit(":", 1)[0], []).append(row)
    return {name: bits_per_byte(rows) for name, rows in groups.items()}


@dataclass(frozen=True)
class Evaluation:
    """One model on some data."""

    bits_per_byte: float
    by_data_set: dict[str, float]
    num_documents: int
    num_bytes: int
    num_tokens: int


def evaluate_model(
    model: str,
    data: Sequence[str],
    *,
    max_length: int = 512,
    dtype: str = "float32",
    device: str = "cpu",
    token_budget: int = 2048,
) -> Evaluation:
    """Bits per byte of a local folder, an ``asset:NAME`` or a hub id.

    Raises:
        ConfigError: model, data or device do not exist.
    """
    check_device(device)
    source = source_of(model, dtype)
    make_known(Path(source.path))
    tokenizer = Tokenizer.load(source, model)
    prepared = prepare(load_documents(data), [tokenizer], max_length)
    language_model = LanguageModel.load(source, tokenizer, device)
    language_model.model.eval()
    scores = score(language_model, prepared.documents, token_budget)
    return Evaluation(
        bits_per_byte=bits_per_byte(scores),
        by_data_set=by_data_set(prepared.documents, scores),
        num_documents=len(scores),
        num_bytes=sum(row.num_bytes for row in scores),
        num_tokens=sum(row.num_tokens for row in scores),
    )
