"""Bits per byte of an ensemble beside its members'."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from rich.table import Table

from losses.document import Document
from orchestrator.ensembling.options import Interface
from orchestrator.ensembling.scoring import Scored
from orchestrator.evaluation import Lead, lead
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte


@dataclass(frozen=True)
class DocumentScores:
    """One text: negative log-likelihood (nats) of the bytes that every member predicts.

    Args:
        name: of the text.
        nats: of the ensemble.
        members: nats of each member.
        num_bytes: that every member predicts.
        bits_per_byte: of the ensemble; 0 where no byte counts.
    """

    name: str
    nats: float
    members: dict[str, float]
    num_bytes: int
    bits_per_byte: float


@dataclass(frozen=True)
class EnsembleScores:
    """All texts.

    All but ``by_own_tokens`` is over the bytes that every member predicts, so that the numbers
    compare.

    Args:
        interface: whether tokens or bytes were mixed.
        nats: of the ensemble, over all texts.
        num_bytes: that every member predicts.
        bits_per_byte: of the ensemble.
        members: bits per byte of each member, read as the ensemble reads it.
        by_own_tokens: bits per byte of each member by the tokens that its tokenizer writes, over
            all bytes that it predicts: what ``tutelage evaluate`` says of it.
        weights: each member's share.
        lead: of the ensemble over its best member, with a bootstrap interval over texts.
        documents: each text.
    """

    interface: Interface
    nats: float
    num_bytes: int
    bits_per_byte: float
    members: dict[str, float]
    by_own_tokens: dict[str, float]
    weights: dict[str, float]
    lead: Lead
    documents: tuple[DocumentScores, ...]


def summary(
    interface: Interface,
    documents: Sequence[Document],
    rows: Sequence[Scored],
    own: Mapping[str, Sequence[DocumentScore]],
    weights: Mapping[str, float],
) -> EnsembleScores:
    """Put what was scored together.

    Args:
        interface: what was mixed.
        documents: the texts.
        rows: of each text, members in the order of ``own``.
        own: each member's scores by its own tokens.
        weights: of each member.
    """
    ensemble = [_score(row.ensemble, row, row.common) for row in rows]
    members = {
        name: [_score(row.members[place], row, row.common) for row in rows]
        for place, name in enumerate(own)
    }
    found = {name: bits_per_byte(scores) for name, scores in members.items()}
    total = sum(weights.values())
    return EnsembleScores(
        interface=interface,
        nats=sum(score.nats for score in ensemble),
        num_bytes=sum(score.num_bytes for score in ensemble),
        bits_per_byte=bits_per_byte(ensemble),
        members=found,
        by_own_tokens={name: bits_per_byte(scores) for name, scores in own.items()},
        weights={name: weight / total for name, weight in weights.items()},
        lead=lead(ensemble, members[min(found, key=lambda name: found[name])]),
        documents=tuple(
            _of_document(document.name, ensemble[place], {n: s[place] for n, s in members.items()})
            for place, document in enumerate(documents)
        ),
    )


def table(scores: EnsembleScores) -> Table:
    """The ensemble beside its members, for the terminal."""
    unit = "token" if scores.interface == "tokens" else "byte"
    found = Table(
        title=f"Bits per byte on {scores.num_bytes:,} bytes, mixed {unit} by {unit}",
        caption=f"The ensemble leads its best member by {scores.lead.value:.4f} "
        f"(95 % interval over texts: {scores.lead.low:.4f} to {scores.lead.high:.4f}).",
    )
    found.add_column("model")
    for column in ("weight", "bits per byte", "by its own tokens"):
        found.add_column(column, justify="right")
    for name, value in scores.members.items():
        own, weight = scores.by_own_tokens[name], scores.weights[name]
        found.add_row(name, f"{weight:.3f}", f"{value:.4f}", f"{own:.4f}")
    found.add_row("ensemble", "", f"{scores.bits_per_byte:.4f}", "")
    return found


def _score(
    nats: Float64[np.ndarray, "event"], row: Scored, common: Bool[np.ndarray, "event"]
) -> DocumentScore:
    return DocumentScore(
        float(nats[common].sum()), int(row.widths[common].sum()), int(common.sum())
    )


def _of_document(
    name: str, ensemble: DocumentScore, members: Mapping[str, DocumentScore]
) -> DocumentScores:
    bits = ensemble.nats / math.log(2)
    return DocumentScores(
        name=name,
        nats=ensemble.nats,
        members={member: score.nats for member, score in members.items()},
        num_bytes=ensemble.num_bytes,
        bits_per_byte=bits / ensemble.num_bytes if ensemble.num_bytes else 0.0,
    )
