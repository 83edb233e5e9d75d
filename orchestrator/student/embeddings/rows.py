"""From the option ``init`` and two vocabularies to the weights of every new row."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from orchestrator.student.embeddings.focus import focus
from orchestrator.student.embeddings.fvt import fvt
from orchestrator.student.embeddings.mean import mean
from orchestrator.student.embeddings.options import EmbeddingInit
from orchestrator.student.embeddings.row_mixture import RowMixture
from orchestrator.student.embeddings.vocabulary_pair import Row, VocabularyPair

WAYS: Mapping[EmbeddingInit, Callable[[VocabularyPair], dict[int, Row]]] = MappingProxyType(
    {"fvt": fvt, "focus": focus, "mean": mean}
)


def mixture_of(
    init: EmbeddingInit, pair: VocabularyPair, specials: Mapping[int, int]
) -> RowMixture:
    """The weights of the old rows in each new row.

    Args:
        init: how rows of new tokens come about; of a hypernetwork's, which are no mixture, only
            the copied ones are here.
        pair: the vocabularies.
        specials: new special token -> old one, both without bytes.
    """
    found = WAYS.get(init, mean)(pair) | {new: {old: 1.0} for new, old in specials.items()}
    rows = (found.get(index, {}) for index in range(len(pair.target)))
    return RowMixture.of(rows, [index for index in pair.overlap.new if found.get(index) == {}])
