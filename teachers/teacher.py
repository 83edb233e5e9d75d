"""A frozen model that turns documents into signals; knows nothing of Ray or of the student."""

import logging
import sys
from collections.abc import Sequence

import torch

from losses.base import Method
from losses.document import Document
from losses.mixture import Metric, TeacherScore, Unusable
from losses.prediction import Prediction
from losses.signals import pack
from teachers.backends.transformers import LanguageModel
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.evaluation import score, teacher_score
from teachers.head_weights import HeadWeights
from teachers.routed import absent_row, routed_signals, signals_by_part
from teachers.soundness import flaw_of_signals, flaw_of_states
from teachers.token_budget import TokenBudget

log = logging.getLogger(__name__)


class Teacher:
    """Model + methods; one forward pass serves all of its methods.

    Args:
        model: the frozen model.
        methods: what to compute from each prediction.
        token_budget: padded tokens of one forward pass; fewer once memory did not suffice.
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
        self.budget = TokenBudget(token_budget)
        self.asks = asks
        self.freeze(model)

    def freeze(self, model: LanguageModel) -> None:
        """Speak from these weights from now on; they are never trained."""
        self.model = model
        model.model.requires_grad_(requires_grad=False)
        model.model.eval()

    def move_to(self, device: str) -> None:
        """Speak from there; what is left free on the old device others may take."""
        self.model.model.to(torch.device(device))  # type: ignore[arg-type]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """Each document's signals, in the order of the documents.

        A document that does not go to this teacher is not read: its signals are ``Absent``. One
        whose hidden states or signals are not finite gets ``Unusable`` ones.

        Raises:
            MemoryError: a single document does not fit into memory.
        """
        absent = absent_row(len(self.methods), self.asks)
        return routed_signals(self.model.tokenizer.name, documents, absent, self._signals)

    def _signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        return self.budget.over(self.model, documents, self._read)

    def _read(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """What one forward pass says; a document that fails beside others is read alone again.

        Packed ones see each other's zeros, and zero times what is not finite is not finite.
        """
        asks = any(method.needs_continuations for method in self.methods)
        predictions = self.model.predictions(documents, continuations=asks)
        # each prediction holds a table of log-probabilities: free it before the next is made
        rows = [self._document_signals(document, predictions.pop(0)) for document in documents]
        if len(documents) > 1:
            for place, row in enumerate(rows):
                if any(isinstance(signal, Unusable) for signal in row):
                    [rows[place]] = self._read([documents[place]])
        return rows

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> list[DocumentSignals]:
        """Each document's signals, once for each part: the places of the methods it is made of."""
        return signals_by_part(self.signals(documents), parts)

    def _document_signals(self, document: Document, prediction: Prediction) -> DocumentSignals:
        flaw = flaw_of_states(prediction)
        if flaw is None:
            signals = tuple(method.signal(prediction, document) for method in self.methods)
            flaw = flaw_of_signals(signals, prediction)
            if flaw is None:
                if self.asks is None:
                    return signals
                return (*signals, teacher_score(prediction, self.asks))
        name = self.model.tokenizer.name
        log.info("teacher %s: document %s says nothing: %s", name, document.name, flaw)
        return self._unusable(flaw)

    def _unusable(self, reason: str) -> DocumentSignals:
        score = () if self.asks is None else (TeacherScore(0.0, 0, 0),)
        return (Unusable(reason),) * len(self.methods) + score

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """How well the teacher itself predicts each document."""
        return self.budget.over(self.model, documents, self._scores)

    def _scores(self, documents: Sequence[Document]) -> list[DocumentScore]:
        return score(self.model, documents, sys.maxsize)

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
