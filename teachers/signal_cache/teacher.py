"""A teacher that loads no model: it reads what the live one said."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from losses.base import Method
from losses.document import Document
from losses.mixture import Metric
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.routed import absent_row, routed_signals, signals_by_part
from teachers.signal_cache.cache import SignalCache
from teachers.signal_cache.manifest import place_of

FEW = 4
"""Documents that the probe gets, at most."""

Probe: TypeAlias = Callable[[Sequence[Document], Sequence[DocumentSignals]], None]
"""Called with documents and what is stored of them; raises ValueError if it should not be trusted.
"""


class CacheTeacher:
    """Answers like the teacher whose signals lie in a folder.

    Args:
        name: of the teacher, in this run.
        cache: what it said.
        methods: which of its signals are wanted, in this order.
        asks: what the mixture judges teachers by; None sends no score.
        probe: of the first documents that it is asked for, before it answers.

    Raises:
        ValueError: a shard is missing or damaged, or the cache has other signals than wanted.
    """

    def __init__(
        self,
        name: str,
        cache: SignalCache,
        methods: Sequence[Method],
        asks: Metric | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.name = name
        self.cache = cache
        self._probe = probe
        cache.check(read_all=True)
        facts = cache.manifest.teacher
        if asks is not None and facts.asks != asks:
            raise ValueError(
                f"asks: the cache {cache.folder} has {facts.asks}, the run asks for {asks}"
            )
        score = () if asks is None else (len(facts.methods),)
        self._places = (*(place_of(cache.manifest, method) for method in methods), *score)
        self._absent = absent_row(len(methods), asks)
        self._scores: dict[str, DocumentScore] | None = None

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """Each document's signals, in the order of the documents.

        Raises:
            ValueError: a document's signals are not stored, or the probe finds them wrong.
        """
        own = [document for document in documents if document.goes_to(self.name)][:FEW]
        if own and self._probe is not None:
            self._probe(own, self._read(own))
            self._probe = None
        return routed_signals(self.name, documents, self._absent, self._read)

    def _read(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        return [self.cache.signals(document, self._places) for document in documents]

    def signals_of_parts(
        self, documents: Sequence[Document], parts: Sequence[Sequence[int]]
    ) -> list[DocumentSignals]:
        """Each document's signals, once for each part: the places of the methods it is made of."""
        return signals_by_part(self.signals(documents), parts)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """How well the teacher itself predicted each document.

        Raises:
            ValueError: a document's score is not stored.
        """
        if self._scores is None:
            self._scores = self.cache.scores()
        for document in documents:
            if document.digest not in self._scores:
                raise ValueError(
                    f"teacher {self.name}: {self.cache.folder} has no score of document "
                    f"{document.name}; capture the held-out text of this run"
                )
        return [self._scores[document.digest] for document in documents]

    def head_weights(self) -> HeadWeights:
        """The teacher's head, as it was stored."""
        return self.cache.head()
