"""What a server is asked about: a text as token ids, and what is known of it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(frozen=True)
class Prompt:
    """Token ids, and what to call them in messages."""

    name: str
    ids: Int64[np.ndarray, "token"]


@dataclass(frozen=True)
class Known:
    """A prompt and the log-probability (nats) of each of its tokens, NaN where it has none."""

    prompt: Prompt
    logprob: Float32[np.ndarray, "token"]
