"""One step's documents in the tokens of a sampled vocabulary, cut down to what the step needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.document import Document
from orchestrator.hypernetwork.network import Hypernetwork
from orchestrator.hypernetwork.pieces import Speller
from orchestrator.hypernetwork.rows import rows_of
from teachers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Documents and the part of a vocabulary that they are read in.

    Args:
        documents: of the step.
        tokens: their tokens; ids are those of ``vocabulary``.
        vocabulary: tokens of the documents, named special tokens, and negatives.
        special: id here -> id in the model's own vocabulary, of each special token.
    """

    documents: tuple[Document, ...]
    tokens: tuple[Tokens, ...]
    vocabulary: Vocabulary
    special: dict[int, int]

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        sampled: Tokenizer,
        source: Tokenizer,
        num_negatives: int | None,
        rng: np.random.Generator,
    ) -> "Batch":
        """Read the documents and keep the tokens that they need, and so many others.

        Args:
            documents: at least one.
            sampled: the tokenizer to read them with; its special tokens are those of ``source``.
            source: the model's own tokenizer.
            num_negatives: further tokens; None for all of them.
            rng: draws them.
        """
        views = sampled.encode(documents)
        ids = _needed(views, sampled.vocabulary, num_negatives, rng)
        chosen = _part(sampled.vocabulary, ids)
        names = {here: sampled.backend.id_to_token(int(ids[here])) for here in chosen.roles}
        return cls(
            documents=tuple(documents),
            tokens=tuple(replace(view, ids=np.searchsorted(ids, view.ids)) for view in views),
            vocabulary=chosen,
            special={here: _special_id(source, name) for here, name in names.items()},
        )

    @property
    def num_scored_bytes(self) -> int:
        """Bytes that count, over all documents."""
        return sum(document.num_scored_bytes for document in self.documents)

    def rows(
        self,
        network: Hypernetwork,
        source: Float[Tensor, "vocab stack hidden"],
        speller: Speller,
    ) -> Float[Tensor, "local stack hidden"]:
        """The network's rows; those of special tokens are the model's own."""
        contents = self.vocabulary.token_bytes
        text = [index for index, content in enumerate(contents) if content is not None]
        predicted = rows_of(network, source, speller.spell([contents[i] or b"" for i in text]))
        own = source[torch.tensor(list(self.special.values()), dtype=torch.long)].float()
        back = np.argsort(np.array([*text, *self.special]))
        rows: Tensor = torch.cat([predicted, own])[torch.from_numpy(back).to(own.device)]
        return rows


def _needed(
    views: Sequence[Tokens],
    vocabulary: Vocabulary,
    num_negatives: int | None,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "local"]:
    """Rising ids: tokens of the views, special tokens with a role of their own, and others."""
    used = [index for index, role in vocabulary.roles.items() if role != "other"]
    positives = np.unique(np.concatenate([np.array(used, dtype=np.int64), *(v.ids for v in views)]))
    if num_negatives is None:
        return np.arange(len(vocabulary))
    others = np.setdiff1d(np.arange(len(vocabulary)), positives)
    drawn = rng.choice(others, size=min(num_negatives, len(others)), replace=False)
    return np.sort(np.concatenate([positives, drawn]))


def _special_id(source: Tokenizer, name: str | None) -> int:
    """The model's own id of a special token."""
    found = None if name is None else source.backend.token_to_id(name)
    if found is None:
        raise ValueError(f"{source.name} has no special token {name}; expected its own ones")
    return int(found)


def _part(vocabulary: Vocabulary, ids: Int64[np.ndarray, "local"]) -> Vocabulary:
    listed = ids.tolist()
    roles = {h: vocabulary.roles[i] for h, i in enumerate(listed) if i in vocabulary.roles}
    return Vocabulary(tuple(vocabulary.token_bytes[index] for index in listed), roles)
