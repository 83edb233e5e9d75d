"""Likelihoods of given documents under an ensemble and under each of its members.

What is counted are events: a token, or a byte, or the end of a turn. A member that does not
predict an event (a first token without a start token before it, a token of its template) leaves
its weight to the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from losses.alignment.tokens import byte_starts
from losses.document import Document
from losses.mixture.targets import Mean, combine_logprobs
from losses.prediction import ELEMENTS_IN_MEMORY, Prediction
from orchestrator.ensemble import WINDOW, mixed
from orchestrator.ensembling.options import EnsembleMember, EnsembleOptions
from teachers.backends.transformers import LanguageModel
from teachers.byte_reading import next_bytes
from teachers.chat_tokens import end_of_turn_id


@dataclass(frozen=True)
class Scored:
    """Negative log-likelihoods (nats) of a document's events.

    Args:
        widths: bytes of each event; the end of a turn has one.
        ensemble: of the members' mean.
        members: of each member; NaN where it predicts nothing.
    """

    widths: Int64[np.ndarray, "event"]
    ensemble: Float64[np.ndarray, "event"]
    members: Float64[np.ndarray, "member event"]

    @property
    def common(self) -> Bool[np.ndarray, "event"]:
        """The events that every member predicts."""
        known: Bool[np.ndarray, "event"] = ~np.isnan(self.members).any(0)
        return known


def score_bytes(
    members: Sequence[EnsembleMember], documents: Sequence[Document], options: EnsembleOptions
) -> Iterator[Scored]:
    """By next-byte distributions; those of members with tokens are made by the converter."""
    weights, converter = weights_of(members), options.whole_converter
    for window in _windows(documents):
        signals = [next_bytes(m.model, window, converter, options.token_budget) for m in members]
        for document, *own in zip(window, *signals, strict=True):
            found = mixed(document, own, weights, options.mean)
            widths = np.ones(len(found.ensemble), dtype=np.int64)
            yield Scored(widths, found.ensemble, found.members)


def score_tokens(
    members: Sequence[EnsembleMember], documents: Sequence[Document], options: EnsembleOptions
) -> Iterator[Scored]:
    """By next-token distributions of members with one vocabulary: exact.

    The tokens with which the members end a turn stand for each other.

    Raises:
        ValueError: two members cut the same bytes into different tokens.
    """
    mixer = _TokenMixer(members, options.mean)
    for window in _windows(documents):
        found = [_predictions(m.model, window, options.token_budget) for m in members]
        for document, *own in zip(window, *found, strict=True):
            yield mixer.scored(document, own)


def weights_of(members: Sequence[EnsembleMember]) -> Float64[Tensor, "member"]:
    """The members' weights."""
    return torch.tensor([member.weight for member in members], dtype=torch.float64)


class _TokenMixer:
    """Mixes the members' predictions of a document, event by event."""

    def __init__(self, members: Sequence[EnsembleMember], mean: Mean) -> None:
        self._weights = weights_of(members)
        self._mean = mean
        self._ends = [end_of_turn_id(member.model.tokenizer) for member in members]
        self._end = next((end for end in self._ends if end is not None), None)

    @torch.no_grad()
    def scored(self, document: Document, predictions: Sequence[Prediction]) -> Scored:
        """The document under the ensemble and under each member."""
        rows = [self._events(p, end) for p, end in zip(predictions, self._ends, strict=True)]
        events = np.unique(np.concatenate(rows)[:, :3], axis=0)
        if (events[1:, 0] < events[:-1, 1]).any():
            raise ValueError(
                f"document {document.name}: members with one vocabulary cut it into different "
                "tokens (their merges differ); expected the same tokens, or interface bytes"
            )
        places = np.full((len(rows), len(events)), -1)
        for member, own in enumerate(rows):
            places[member, np.searchsorted(events[:, 1], own[:, 1])] = own[:, 3]
        vocabulary = predictions[0].head.num_valid
        size = max(1, ELEMENTS_IN_MEMORY // (vocabulary * len(rows)))
        parts = [
            self._part(predictions, places[:, low : low + size], events[low : low + size, 2])
            for low in range(0, max(len(events), 1), size)
        ]
        ensemble, members = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return Scored(events[:, 1] - events[:, 0], ensemble, members)

    def _events(self, prediction: Prediction, end: int | None) -> Int64[np.ndarray, "event 4"]:
        """First byte, byte behind, id on the common axis, and place of each scored token."""
        tokens, places = prediction.tokens, prediction.scored_positions.cpu().numpy()
        ids = tokens.ids.copy()
        if end is not None:
            ids[tokens.ids == end], ids[tokens.ids == self._end] = self._end, end
        columns = byte_starts(tokens.byte_ends)[places], tokens.byte_ends[places], ids[places]
        return np.stack([*columns, places], axis=1)

    def _part(
        self,
        predictions: Sequence[Prediction],
        places: Int64[np.ndarray, "member event"],
        ids: Int64[np.ndarray, "event"],
    ) -> tuple[Float64[np.ndarray, "event"], Float64[np.ndarray, "member event"]]:
        """Nats of a few events, of the ensemble and of each member."""
        present = torch.from_numpy(places >= 0)
        stack = torch.stack(
            [
                self._table(prediction, own, end)
                for prediction, own, end in zip(predictions, places, self._ends, strict=True)
            ]
        )
        mean = combine_logprobs(stack, self._weights, present, self._mean)
        drawn = torch.from_numpy(ids)[:, None]
        own = stack.gather(-1, drawn.expand(len(stack), -1, -1)).squeeze(-1)
        nats = -torch.where(present, own, torch.nan)
        return -mean.gather(-1, drawn).squeeze(-1).numpy(), nats.numpy()

    def _table(
        self, prediction: Prediction, places: Int64[np.ndarray, "event"], end: int | None
    ) -> Float[Tensor, "event vocab"]:
        """Log-probabilities on the common axis; anything at all where the member is absent."""
        rows = torch.from_numpy(np.maximum(places - 1, 0)).to(prediction.device)
        table = torch.log_softmax(prediction.head.logits(prediction.hidden[rows]), -1).double()
        if end is not None and end != self._end:
            table[:, [end, self._end]] = table[:, [self._end, end]]
        return table.cpu()


def _windows(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    for low in range(0, len(documents), WINDOW):
        yield documents[low : low + WINDOW]


@torch.no_grad()
def _predictions(
    model: LanguageModel, documents: Sequence[Document], token_budget: int
) -> list[Prediction]:
    """A member's predictions, in the order of the documents."""
    lengths = [len(tokens) for tokens in model.encode(documents)]
    found: dict[int, Prediction] = {}
    for batch in model.batches(lengths, token_budget):
        predictions = model.predictions([documents[index] for index in batch])
        found |= dict(zip(batch, predictions, strict=True))
    return [found[index] for index in range(len(documents))]
