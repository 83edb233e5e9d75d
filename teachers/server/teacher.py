"""A teacher behind a server: documents become token ids, answers become predictions."""

from collections.abc import Sequence

import torch

from losses.alignment.tokens import Tokens
from losses.base import Method
from losses.document import Document
from losses.mixture import Metric
from losses.told import Told, ToldPrediction
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.evaluation import document_score, teacher_score
from teachers.head_weights import HeadWeights
from teachers.routed import absent_row, routed_signals, signals_by_part
from teachers.server.client import Client, served_model
from teachers.server.dialects import ANSWERS, Answer, request_of
from teachers.server.parity import Parity
from teachers.server.prompt import Prompt
from teachers.server.told import nothing_told, told_of
from teachers.tokenizer import Tokenizer


class ServerTeacher:
    """Server + tokenizer + methods; one request a document serves all methods.

    Args:
        client: the server.
        tokenizer: that of the served model.
        methods: what to compute from each prediction; none reads more than a server tells.
        parity: what the server is compared with before it is first believed.
        asks: what the mixture judges teachers by; None sends no score.

    Raises:
        ValueError: the server does not serve the model, or reads too few tokens.
        ServerLost: it cannot be reached.
    """

    def __init__(
        self,
        client: Client,
        tokenizer: Tokenizer,
        methods: Sequence[Method],
        parity: Parity,
        asks: Metric | None = None,
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.methods = tuple(methods)
        self.parity = parity
        self.asks = asks
        self.max_tokens = served_model(client).max_model_len
        self._check_length(client.source.longest, "the longest document of the run")
        self._is_believed = False

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """Each document's signals, in the order of the documents.

        Before the first ones the server is compared with ``parity`` on these documents.

        Raises:
            ValueError: an answer cannot be used, or the server is not the model it should be.
            ServerLost: the server does not answer.
        """
        absent = absent_row(len(self.methods), self.asks)
        return routed_signals(self.tokenizer.name, documents, absent, self._signals)

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> list[DocumentSignals]:
        """Each document's signals, once for each part: the places of the methods it is made of."""
        return signals_by_part(self.signals(documents), parts)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """How well the teacher itself predicts each document."""
        return [document_score(prediction) for prediction in self.predictions(documents)]

    def head_weights(self) -> HeadWeights:
        """Refused: a server keeps its weights.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"teacher {self.tokenizer.name} is behind a server, which gives no weights; expected "
            "a method that needs no head"
        )

    def predictions(self, documents: Sequence[Document]) -> list[ToldPrediction]:
        """What the server says of each document."""
        views = self._encode(documents)
        prompts = [Prompt(d.name, view.ids) for d, view in zip(documents, views, strict=True)]
        telling = [prompt for prompt in prompts if len(prompt.ids) > 1]
        if telling and not self._is_believed:
            self.parity.check(telling, self._ask_all)
            self._is_believed = True
        told = self._ask_all(prompts)
        return [
            self._prediction(document, view, found)
            for document, view, found in zip(documents, views, told, strict=True)
        ]

    def _signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        found = self.predictions(documents)
        return [self._row(*pair) for pair in zip(documents, found, strict=True)]

    def _row(self, document: Document, prediction: ToldPrediction) -> DocumentSignals:
        signals = tuple(method.signal(prediction, document) for method in self.methods)
        return signals if self.asks is None else (*signals, teacher_score(prediction, self.asks))

    def _prediction(self, document: Document, view: Tokens, told: Told) -> ToldPrediction:
        scored = torch.from_numpy(view.scored(document.scored))
        return ToldPrediction(
            tokens=view, vocabulary=self.tokenizer.vocabulary, scored=scored, told=told
        )

    def _encode(self, documents: Sequence[Document]) -> list[Tokens]:
        views = self.tokenizer.encode(documents)
        for document, view in zip(documents, views, strict=True):
            self._check_length(len(view), f"document {document.name}")
        return views

    def _check_length(self, length: int, what: str) -> None:
        """A request needs room for one more token, which the server generates."""
        if self.max_tokens is not None and length >= self.max_tokens:
            raise ValueError(
                f"{what} is {length} tokens long for {self.tokenizer.name}, whose server reads "
                f"fewer than {self.max_tokens} (max_model_len); lower data.max_length, or raise it "
                "there"
            )

    def _ask_all(self, prompts: Sequence[Prompt]) -> list[Told]:
        return self.client.each(self._ask, prompts)

    def _ask(self, prompt: Prompt) -> Told:
        source, ids = self.client.source, prompt.ids.tolist()
        if len(ids) < 2:
            return nothing_told(len(ids))
        path, request = request_of(source, ids)
        answer: Answer = self.client.post(path, request, ANSWERS[source.dialect])
        try:
            size = len(self.tokenizer.vocabulary)
            return told_of(answer.rows(ids), ids, source.top_logprobs, size)
        except ValueError as error:
            raise self.client.wrong(
                f"answered about document {prompt.name} what cannot be used: {error}"
            ) from error
