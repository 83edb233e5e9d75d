"""Bits per byte of an ensemble of models, beside each member's: what there is to learn from it.

The members predict the next byte, whatever their tokenizers, and their mean is what the losses on
the teachers' ensemble teach (``mixture.combine: targets``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from losses.byte_distributions import Converter, targets
from losses.document import Document
from losses.mixture.targets import Mean, combine_logprobs
from losses.signals import ByteDistributions
from orchestrator.data import load_documents, prepare
from orchestrator.errors import ConfigError
from orchestrator.evaluation import Lead, by_data_set, lead
from orchestrator.loading import load_model
from orchestrator.members import Member
from teachers.backends.transformers import LanguageModel
from teachers.byte_reading import ConverterName, next_bytes
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte

WINDOW = 16
"""Documents whose distributions are held at once."""


@dataclass(frozen=True)
class ByteScores:
    """Negative log-likelihood (nats) of a document's bytes that some member predicts.

    Args:
        ensemble: of the members' mean.
        members: of each member; NaN where it predicts nothing.
    """

    ensemble: Float64[np.ndarray, "byte"]
    members: Float64[np.ndarray, "member byte"]

    @property
    def common(self) -> Bool[np.ndarray, "byte"]:
        """The bytes that every member predicts."""
        known: Bool[np.ndarray, "byte"] = np.isfinite(self.members).all(0)
        return known


@dataclass(frozen=True)
class EnsembleEvaluation:
    """An ensemble on some data.

    All but ``bits_per_byte_of_some`` is over the bytes that every member predicts, so the numbers
    compare. That one is over those that at least one does, the others' weight being left to it.

    Args:
        bits_per_byte: of the ensemble.
        members: bits per byte of each member.
        lead: of the ensemble over its best member, with a bootstrap interval over documents.
        by_data_set: the ensemble's, by data file.
        num_documents: read exactly by every member.
        num_bytes: that every member predicts.
        bits_per_byte_of_some: of the ensemble on ``num_bytes_of_some`` bytes.
        num_bytes_of_some: that at least one member predicts.
    """

    bits_per_byte: float
    members: dict[str, float]
    lead: Lead
    by_data_set: dict[str, float]
    num_documents: int
    num_bytes: int
    bits_per_byte_of_some: float
    num_bytes_of_some: int


@dataclass(frozen=True)
class Mixing:
    """How members are mixed: their mean, and how each becomes a distribution of the next byte."""

    mean: Mean
    converter: ConverterName = "branches"


def evaluate_ensemble(
    members: Sequence[Member],
    data: Sequence[str],
    mixing: Mixing,
    *,
    max_length: int = 512,
    device: str = "cpu",
    token_budget: int = 2048,
) -> EnsembleEvaluation:
    """Bits per byte of the members' weighted mean; documents are cut by the first's tokenizer.

    Raises:
        ConfigError: a model or data file does not exist, or no document is read by all members.
    """
    if not members:
        raise ConfigError("an ensemble has one member at least; name its models")
    loaded = load_documents(data)
    models = [load_model(m.source, m.name, device, m.start_token) for m in members]
    documents = prepare(loaded, [model.tokenizer for model in models], max_length).documents
    weights = torch.tensor([member.weight for member in members], dtype=torch.float64)
    converter, rows = Converter(name=mixing.converter), []
    for signals, window in _windows(models, documents, converter, token_budget):
        rows += [
            mixed(document, own, weights, mixing.mean)
            for document, *own in zip(window, *signals, strict=True)
        ]
    return _summary([member.name for member in members], documents, rows)


def _windows(
    models: Sequence[LanguageModel],
    documents: Sequence[Document],
    converter: Converter,
    token_budget: int,
) -> Iterator[tuple[list[list[ByteDistributions]], Sequence[Document]]]:
    """What each member says about a few documents at a time."""
    for low in range(0, len(documents), WINDOW):
        window = documents[low : low + WINDOW]
        yield [next_bytes(model, window, converter, token_budget) for model in models], window


def mixed(
    document: Document,
    signals: Sequence[ByteDistributions],
    weights: Float64[Tensor, "member"],
    mean: Mean,
) -> ByteScores:
    """The document's bytes under the ensemble and under each member.

    Args:
        document: what was predicted.
        signals: each member's distributions.
        weights: of the members; one without a row leaves its weight to the others.
        mean: arithmetic or geometric.
    """
    positions = np.unique(np.concatenate([signal.positions for signal in signals])).astype(np.int64)
    stack = torch.zeros(len(signals), len(positions), 257, dtype=torch.float64)
    present = torch.zeros(stack.shape[:2], dtype=torch.bool)
    for member, signal in enumerate(signals):
        rows = torch.from_numpy(positions.searchsorted(signal.positions))
        table = torch.from_numpy(signal.logprobs.astype(np.float64))
        stack[member, rows] = table.log_softmax(-1)  # rounded to half precision on its way
        present[member, rows] = True
    observed = torch.as_tensor(targets(document, positions)).unsqueeze(-1)
    ensemble = combine_logprobs(stack, weights, present, mean)
    own = stack.gather(-1, observed.expand(len(signals), -1, -1)).squeeze(-1)
    return ByteScores(
        -ensemble.gather(-1, observed).squeeze(-1).numpy(),
        -torch.where(present, own, torch.nan).numpy(),
    )


def _summary(
    names: Sequence[str], documents: Sequence[Document], rows: Sequence[ByteScores]
) -> EnsembleEvaluation:
    whole = [_score(row.ensemble) for row in rows]
    ensemble = [_score(row.ensemble[row.common]) for row in rows]
    members = {
        name: [_score(row.members[index, row.common]) for row in rows]
        for index, name in enumerate(names)
    }
    found = {name: bits_per_byte(scores) for name, scores in members.items()}
    return EnsembleEvaluation(
        bits_per_byte=bits_per_byte(ensemble),
        members=found,
        lead=lead(ensemble, members[min(found, key=lambda name: found[name])]),
        by_data_set=by_data_set(documents, ensemble),
        num_documents=len(rows),
        num_bytes=sum(score.num_bytes for score in ensemble),
        bits_per_byte_of_some=bits_per_byte(whole),
        num_bytes_of_some=sum(score.num_bytes for score in whole),
    )


def _score(nats: Float64[np.ndarray, "byte"]) -> DocumentScore:
    return DocumentScore(float(nats.sum()), len(nats), len(nats))
