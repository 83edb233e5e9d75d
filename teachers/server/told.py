"""From a server's answer to what is known of a document, checked against what was sent."""

from collections.abc import Sequence

import numpy as np

from losses.told import Told
from teachers.server.dialects import Row

LARGEST = 1e-3
"""A log-probability may be so far above zero by rounding."""


def told_of(rows: Sequence[Row], ids: Sequence[int], k: int, vocabulary_size: int) -> Told:
    """One entry for each token that was sent.

    Args:
        rows: what the server says, place by place.
        ids: the tokens that were sent.
        k: how many likeliest tokens are kept, at most.
        vocabulary_size: ids from here on are rows that pad the model; they are left out.

    Raises:
        ValueError: another token was read, its log-probability is missing, or is none.
    """
    k = min(k, vocabulary_size)
    told = Told(
        logprob=np.full(len(ids), np.nan, dtype=np.float32),
        ids=np.full((len(ids), k), -1, dtype=np.int32),
        logprobs=np.full((len(ids), k), -np.inf, dtype=np.float32),
    )
    for place, (row, sent) in enumerate(zip(rows, ids, strict=True)):
        if row.id is not None and row.id != sent:
            raise ValueError(
                f"it read token {row.id} at place {place}, but {sent} was sent; does it serve "
                "another document, or change the prompt?"
            )
        if place:
            told.logprob[place] = _checked(row, place, sent)
            _fill(told, place, row, vocabulary_size)
    return told


def nothing_told(length: int) -> Told:
    """Of a document that has no token that another one precedes."""
    nothing = np.zeros((length, 0))
    return Told(
        np.full(length, np.nan, dtype=np.float32),
        nothing.astype(np.int32),
        nothing.astype(np.float32),
    )


def _checked(row: Row, place: int, sent: int) -> float:
    if row.logprob is None:
        raise ValueError(
            f"it tells no log-probability of token {sent} at place {place}: it read another text, "
            "or does not tell the prompt's"
        )
    if max(row.logprob, *row.top.values(), -1.0) > LARGEST:
        raise ValueError(f"it tells a log-probability above 0 at place {place}")
    return row.logprob


def _fill(told: Told, place: int, row: Row, vocabulary_size: int) -> None:
    known = [(value, other) for other, value in row.top.items() if 0 <= other < vocabulary_size]
    known.sort(key=lambda entry: (-entry[0], entry[1]))
    for rank, (value, other) in enumerate(known[: told.ids.shape[1]]):
        told.ids[place, rank], told.logprobs[place, rank] = other, value
