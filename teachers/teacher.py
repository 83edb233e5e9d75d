"""A frozen model that turns documents into signals; knows nothing of Ray or of the student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Shaped

from losses.base import Method
from losses.document import Document
from losses.mixture import Absent, Metric, TeacherScore
from losses.prediction import Head, Prediction
from losses.signals import Signal, pack, unpack
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import DocumentScore, score, teacher_score

DocumentSignals: TypeAlias = tuple[Signal, ...]
"""One document's signals, one for each of the teacher's methods, in their order; then the teacher's
score, if it is asked for."""


@dataclass(frozen=True)
class HeadWeights:
    """A teacher's head as arrays, sent to the student once."""

    weight: Shaped[np.ndarray, "vocab hidden"]
    bias: Shaped[np.ndarray, "vocab"] | None
    num_valid: int
    scale: float
    softcap: float | None

    def head(self, device: torch.device) -> Head:
        """The head rebuilt, frozen."""
        weight = unpack(self.weight)
        linear = torch.nn.Linear(
            weight.shape[1], weight.shape[0], bias=self.bias is not None, device="meta"
        )
        linear.weight = torch.nn.Parameter(weight.to(device), requires_grad=False)
        if self.bias is not None:
            linear.bias = torch.nn.Parameter(unpack(self.bias).to(device), requires_grad=False)
        return Head(linear, self.num_valid, self.scale, self.softcap)


class Teacher:
    """Model + methods; one forward pass serves all of its methods.

    Args:
        model: the frozen model.
        methods: what to compute from each prediction.
        token_budget: padded tokens of one forward pass.
        asks: what the mixture judges teachers by; None sends no score.
    """

    def __init__(
        self,
        model: LanguageModel,
        methods: Sequence[Method],
        token_budget: int = 4096,
        asks: Metric | None = None,
    ) -> None:
        self.methods = tuple(methods)
        self.token_budget = token_budget
        self.asks = asks
        self.freeze(model)

    def freeze(self, model: LanguageModel) -> None:
        """Speak from these weights from now on; they are never trained."""
        self.model = model
        model.model.requires_grad_(requires_grad=False)
        model.model.eval()

    @torch.inference_mode()
    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """Each document's signals, in the order of the documents.

        A document that does not go to this teacher is not read: its signals are ``Absent``.

        Raises:
            ValueError: the model's output for a document is not finite.
        """
        name = self.model.tokenizer.name
        own = [document for document in documents if document.goes_to(name)]
        found = iter(self._signals(own))
        return [next(found) if document.goes_to(name) else self._absent for document in documents]

    def _signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        lengths = [len(tokens) for tokens in self.model.encode(documents)]
        found: dict[int, DocumentSignals] = {}
        asks = any(method.needs_continuations for method in self.methods)
        for batch in self.model.batches(lengths, self.token_budget):
            read = [documents[i] for i in batch]
            predictions = self.model.predictions(read, continuations=asks)
            for index, prediction in zip(batch, predictions, strict=True):
                found[index] = self._document_signals(documents[index], prediction)
        return [found[index] for index in range(len(documents))]

    @property
    def _absent(self) -> DocumentSignals:
        score = () if self.asks is None else (TeacherScore(0.0, 0, 0),)
        return (Absent(),) * len(self.methods) + score

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> list[DocumentSignals]:
        """Each document's signals, once for each part: the places of the methods it is made of."""
        rows = self.signals(documents)
        return [tuple(row[place] for place in part) for row in rows for part in parts]

    def _document_signals(self, document: Document, prediction: Prediction) -> DocumentSignals:
        if not torch.isfinite(prediction.hidden).all():
            raise ValueError(
                f"teacher {self.model.tokenizer.name}: the hidden states of document "
                f"{document.name} are not finite; try dtype float32 or leave the document out"
            )
        signals = tuple(method.signal(prediction, document) for method in self.methods)
        return signals if self.asks is None else (*signals, teacher_score(prediction, self.asks))

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """How well the teacher itself predicts each document."""
        return score(self.model, documents, self.token_budget)

    def head_weights(self) -> HeadWeights:
        """The head as arrays; padded rows cut."""
        head = self.model.head
        linear = self.model.model.get_output_embeddings()
        bias = getattr(linear, "bias", None)
        rows = slice(0, head.num_valid)
        return HeadWeights(
            weight=pack(linear.weight[rows]),
            bias=None if bias is None else pack(bias[rows]),
            num_valid=head.num_valid,
            scale=head.scale,
            softcap=head.softcap,
        )
