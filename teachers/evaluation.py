"""Bits per byte: the one loss that compares across tokenizers."""

import math
from collections.abc import Iterable, Sequence

import torch

from losses.alignment.tokens import byte_starts
from losses.document import Document
from losses.mixture import Metric, TeacherScore
from losses.prediction import Prediction
from teachers.backends.transformers import LanguageModel
from teachers.document_score import DocumentScore


@torch.no_grad()
def score(
    model: LanguageModel, documents: Sequence[Document], token_budget: int
) -> list[DocumentScore]:
    """Each document's score, in the order of the documents.

    The model is used as it is: put it into evaluation mode first.
    """
    lengths = [len(tokens) for tokens in model.encode(documents)]
    scores: dict[int, DocumentScore] = {}
    for batch in model.batches(lengths, token_budget):
        predictions = model.predictions([documents[i] for i in batch])
        for index in batch:  # each with its table of log-probabilities: free it before the next
            scores[index] = document_score(predictions.pop(0))
    return [scores[index] for index in range(len(documents))]


def bits_per_byte(scores: Iterable[DocumentScore]) -> float:
    """Bits per byte over all documents together.

    Raises:
        ValueError: no byte was scored.

    >>> bits_per_byte([DocumentScore(nats=math.log(2) * 6, num_bytes=3, num_tokens=1)])
    2.0
    """
    rows = list(scores)
    num_bytes = sum(row.num_bytes for row in rows)
    if not num_bytes:
        raise ValueError("no byte was scored: the documents are empty or nothing in them counts")
    return sum(row.nats for row in rows) / math.log(2) / num_bytes


def teacher_score(prediction: Prediction, metric: Metric) -> TeacherScore:
    """What a mixture judges a teacher by on one document."""
    own = document_score(prediction)
    nats = own.nats
    if metric == "entropy":
        nats = prediction.entropy(prediction.scored_positions - 1).double().sum().item()
    return TeacherScore(nats, own.num_bytes, own.num_tokens)


def document_score(prediction: Prediction) -> DocumentScore:
    """How well one prediction says its document."""
    ends = prediction.tokens.byte_ends
    widths = (ends - byte_starts(ends))[prediction.scored.cpu().numpy()]
    nats = -prediction.logprob_of_scored().double().sum().item()
    return DocumentScore(nats, int(widths.sum()), len(widths))
