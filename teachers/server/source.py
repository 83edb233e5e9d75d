"""Where a served teacher answers, and which tokenizer it reads with."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from teachers.source import ModelSource


class Dialect(StrEnum):
    """How a server is asked for the log-probabilities of a prompt."""

    VLLM = "vllm"
    """``prompt_logprobs`` of ``/v1/completions``."""
    SGLANG = "sglang"
    """``return_logprob`` of ``/generate``."""
    ECHO = "echo"
    """``echo`` with ``logprobs`` of ``/v1/completions``, tokens told as ``token_id:N``."""


@dataclass(frozen=True)
class ServerSource:
    """A server and the model it serves.

    Args:
        url: of the server, without ``/v1``.
        model: the name under which the server knows the model.
        tokenizer: where the model's tokenizer comes from; only its files are read.
        dialect: how the server is asked.
        top_logprobs: how many likeliest tokens of each row are asked for; 0 for none.
        api_key_variable: environment variable that holds the key; None for no key.
        timeout_s: seconds for one answer.
        retries: times a request is sent again after a fault of the server or of the network.
        concurrency: requests under way at once.
        tolerance: largest mean difference in nats a token that a probe may find.
        parity: the same weights, or the file of a recorded sample; None for neither.
        longest: tokens of the longest document that is asked about, as far as it is known.
    """

    url: str
    model: str
    tokenizer: ModelSource
    dialect: Dialect = Dialect.VLLM
    top_logprobs: int = 20
    api_key_variable: str | None = None
    timeout_s: float = 60.0
    retries: int = 4
    concurrency: int = 8
    tolerance: float = 0.05
    parity: ModelSource | Path | None = None
    longest: int = 0
