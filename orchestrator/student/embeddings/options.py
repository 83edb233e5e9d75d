"""How a student's embeddings are made when its tokenizer is not that of its ``init``."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

EmbeddingInit: TypeAlias = Literal["fvt", "focus", "mean", "hypernetwork"]

SpecialTokens: TypeAlias = Literal["original", "target"]

BYTES = "bytes"
"""What stands in the place of a tokenizer's name: 256 bytes and the special tokens of ``init``."""


@dataclass(frozen=True)
class EmbeddingOptions:
    """The part ``student.embeddings`` of the run file."""

    init: EmbeddingInit = "fvt"
    """fvt: rows of equal bytes copied, else the mean of the pieces; focus: else the rows of tokens
    that both have, weighted by likeness; mean: else the mean of all rows; hypernetwork: a
    trained one."""
    special_tokens: SpecialTokens = "original"
    """original: special tokens, roles and chat template of ``init`` are kept; target: those of the
    new tokenizer are taken, and paired by role."""
    hypernetwork: str | None = None
    """Folder that ``tutelage hypernet train`` wrote; only with init: hypernetwork."""
    ngrams: bool = False
    """Byte tokenizer only: add to each byte's embedding the frozen old one of the longest old token
    that ends there."""
    untie: bool | None = None
    """Give the output its own rows where ``init`` shares them with the input; null unties for bytes
    only."""

    def __post_init__(self) -> None:
        if (self.init == "hypernetwork") != (self.hypernetwork is not None):
            raise ValueError(
                f"embeddings: init is {self.init} and hypernetwork is {self.hypernetwork}; "
                "expected a folder with init: hypernetwork, and null with any other"
            )

    def check_bytes(self, is_bytes: bool) -> None:
        """Refuse what has no effect with this kind of tokenizer.

        Raises:
            ValueError: an option is for the other kind.
        """
        if self.ngrams and not is_bytes:
            raise ValueError(
                "embeddings: ngrams is true, but the tokenizer is not bytes; expected false, or "
                "tokenizer: bytes"
            )
        if is_bytes and self.special_tokens == "target":
            raise ValueError(
                "embeddings: special_tokens is target, but bytes have none of their own; expected "
                "original"
            )
