"""Forward passes that run out of memory are tried again with half of the tokens."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from losses.document import Document
from teachers.backends.transformers import LanguageModel

log = logging.getLogger(__name__)

T = TypeVar("T")

SIGNS = ("out of memory", "DefaultCPUAllocator", "not enough memory")
"""What torch says on CUDA and on the CPU."""


class TokenBudget:
    """Padded tokens of one forward pass, fewer once memory did not suffice.

    Args:
        tokens: at most so many; a single document may be longer.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def over(
        self,
        model: LanguageModel,
        documents: Sequence[Document],
        read: Callable[[Sequence[Document]], Sequence[T]],
    ) -> list[T]:
        """What ``read`` makes of each document, in their order.

        Args:
            model: says which documents share a forward pass.
            documents: any number.
            read: reads the documents of one pass.

        Raises:
            MemoryError: a single document does not fit.
        """
        lengths = [len(tokens) for tokens in model.encode(documents)]
        found: dict[int, T] = {}
        while left := [index for index in range(len(documents)) if index not in found]:
            for places in model.batches([lengths[index] for index in left], self.tokens):
                batch = [left[place] for place in places]
                size = len(batch) * max(lengths[index] for index in batch)
                rows = self._try(model, [documents[index] for index in batch], size, read)
                if rows is None:
                    break  # the rest goes into smaller batches
                found |= zip(batch, rows, strict=True)
        return [found[index] for index in range(len(documents))]

    def _try(
        self,
        model: LanguageModel,
        documents: Sequence[Document],
        size: int,
        read: Callable[[Sequence[Document]], Sequence[T]],
    ) -> Sequence[T] | None:
        """One forward pass; None, and a smaller budget, if memory did not suffice."""
        try:
            return read(documents)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            name = model.tokenizer.name
            if len(documents) == 1:
                raise MemoryError(
                    f"teacher {name}: out of memory on document {documents[0].name} alone ({size} "
                    "tokens); lower data.max_length, take bfloat16, or give it more memory"
                ) from error
            self.tokens = max(1, min(self.tokens, size) // 2)
            log.warning(
                "teacher %s: out of memory on %d tokens; token_budget is %d from now on",
                name,
                size,
                self.tokens,
            )
        if torch.cuda.is_initialized():  # the error held what the pass had computed
            torch.cuda.empty_cache()
        return None


def is_out_of_memory(error: Exception) -> bool:
    """True for the errors by which torch says that memory does not suffice.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in str(error) for sign in SIGNS)
