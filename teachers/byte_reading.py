"""A model's next-byte distributions on documents, batch by batch."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch

from losses.byte_distributions import Converter, convert
from losses.document import Document
from losses.signals import ByteDistributions, expect
from teachers.backends.transformers import LanguageModel

ConverterName: TypeAlias = Literal["one_path", "on_path", "branches", "beam"]
"""Those that say the next byte's distribution, with no end of a token among the outcomes."""


@torch.no_grad()
def next_bytes(
    model: LanguageModel, documents: Sequence[Document], converter: Converter, token_budget: int
) -> list[ByteDistributions]:
    """Each document's distributions, in the order of the documents.

    The model is used as it is: put it into evaluation mode first.
    """
    lengths = [len(tokens) for tokens in model.encode(documents)]
    found: dict[int, ByteDistributions] = {}
    for batch in model.batches(lengths, token_budget):
        read = [documents[i] for i in batch]
        predictions = model.predictions(read, continuations=converter.needs_continuations)
        for index, prediction in zip(batch, predictions, strict=True):
            signal = convert(prediction, documents[index], converter)
            found[index] = expect(signal, ByteDistributions)
    return [found[index] for index in range(len(documents))]
