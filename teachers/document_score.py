"""What a model's prediction of a document costs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DocumentScore:
    """Negative log-likelihood (nats) of a document's scored tokens, their bytes and number."""

    nats: float
    num_bytes: int
    num_tokens: int
