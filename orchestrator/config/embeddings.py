"""The part ``student.embeddings`` of the run file: rows for a tokenizer that the model lacks."""

from pydantic import model_validator

from orchestrator.config.messages import as_written
from orchestrator.config.section import Section
from orchestrator.student.embeddings.options import (
    EmbeddingInit,
    EmbeddingOptions,
    SpecialTokens,
)


class EmbeddingsConfig(Section):
    """How a student with another tokenizer gets its embeddings; docs/transfer.md explains it."""

    init: EmbeddingInit = "fvt"
    """Where rows of new tokens come from: fvt is the mean of the pieces, focus a sparse mean of
    like tokens, mean one row for all, hypernetwork a trained network."""
    special_tokens: SpecialTokens = "original"
    """Whose special tokens, roles and template the student has: those of ``init``, or of the
    target tokenizer. A model that loses its own start token is damaged by it."""
    hypernetwork: str | None = None
    """Folder of a trained hypernetwork; with ``init: hypernetwork`` only."""
    ngrams: bool = False
    """Only for bytes: add at each byte the frozen original embedding of the longest original token
    that ends there."""
    untie: bool | None = None
    """Give the output rows of its own where ``init`` shares them with the input; null does so for
    bytes only."""

    @property
    def options(self) -> EmbeddingOptions:
        """The same for the code that makes the rows."""
        return EmbeddingOptions(
            self.init, self.special_tokens, self.hypernetwork, self.ngrams, self.untie
        )

    @model_validator(mode="after")
    def _consistent(self) -> "EmbeddingsConfig":
        if (self.init == "hypernetwork") != (self.hypernetwork is not None):
            raise ValueError(
                f"init is {self.init} and hypernetwork is {as_written(self.hypernetwork)}; "
                "expected the folder that tutelage hypernet train wrote with init: hypernetwork, "
                "and null with any other"
            )
        return self
