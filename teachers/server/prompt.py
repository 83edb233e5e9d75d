"""What a server is asked about: a text as token ids."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True)
class Prompt:
    """Token ids, and what to call them in messages."""

    name: str
    ids: Int64[np.ndarray, "token"]
