"""Whether stored signals are those of a live model, and by how much they differ."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float64, Shaped

from losses.document import Document
from losses.signals import Signal, TopProbabilities, unpack
from teachers.document_signals import DocumentSignals

UNORDERED = ("others", "ids")
"""Fields of a top-k: its entries come in no order, and equal ones at its end may be others."""


def check_parity(
    documents: Sequence[Document],
    stored: Sequence[DocumentSignals],
    live: Sequence[DocumentSignals],
    tolerance: float,
    what: str,
) -> float:
    """The largest difference between what the two say of the documents.

    Args:
        documents: read by both.
        stored: each document's signals as they were kept.
        live: what they are compared with; of the same methods in the same order.
        tolerance: largest difference that passes, see ``difference``.
        what: the stored teacher in words, for the message.

    Raises:
        ValueError: they differ by more; names document, signal and difference.
    """
    worst = 0.0
    for document, ours, theirs in zip(documents, stored, live, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            found = difference(mine, other)
            if not found <= tolerance:
                raise ValueError(
                    f"{what}: its {type(mine).__name__} of document {document.name} differ from "
                    f"the live model's by {found:.3g}, above {tolerance:g}; it is of other "
                    "weights, another template or another tokenizer, or the tolerance is too small"
                )
            worst = max(worst, found)
    return worst


def difference(first: Signal, second: Signal) -> float:
    """By how much two signals differ, at most.

    Numbers x and y differ by |x - y| / max(1, |x|), less what rounding to the stored format
    explains. Infinite where kinds, shapes, positions or the places of NaN are not the same.
    """
    if type(first) is not type(second):
        return np.inf
    return max(_differences(first, second), default=0.0)


def _differences(first: Signal, second: Signal) -> Iterator[float]:
    for field in fields(first):
        values = [getattr(signal, field.name) for signal in (first, second)]
        if isinstance(values[0], str):
            yield 0.0 if values[0] == values[1] else np.inf
            continue
        ours, theirs = map(np.asarray, values)
        if isinstance(first, TopProbabilities) and field.name in UNORDERED:
            if field.name == "others":
                yield _apart(_sorted(ours), _sorted(theirs))
        else:
            yield _apart(ours, theirs)


def _sorted(array: Shaped[np.ndarray, "row k"]) -> Shaped[np.ndarray, "row k"]:
    """Each row's numbers by size, in their own format."""
    values = unpack(array)
    ordered = values.float().sort(dim=-1).values.to(values.dtype)
    return (ordered.view(torch.int16) if ordered.dtype == torch.bfloat16 else ordered).numpy()


def _apart(first: Shaped[np.ndarray, "..."], second: Shaped[np.ndarray, "..."]) -> float:
    if first.shape != second.shape or first.dtype != second.dtype:
        return np.inf
    if not first.size:
        return 0.0
    tensor = unpack(np.atleast_1d(first))
    if not tensor.is_floating_point():
        return 0.0 if np.array_equal(first, second) else np.inf
    ours, theirs = (_wide(unpack(np.atleast_1d(values))) for values in (first, second))
    known = np.isfinite(ours)
    if not np.array_equal(known, np.isfinite(theirs)):
        return np.inf
    if not np.array_equal(ours[~known], theirs[~known], equal_nan=True):
        return np.inf
    size = np.maximum(1.0, np.abs(ours[known]))
    step = torch.finfo(tensor.dtype).eps * np.abs(ours[known])
    apart = np.maximum(np.abs(ours[known] - theirs[known]) - step, 0.0) / size
    return float(apart.max(initial=0.0))


def _wide(tensor: Shaped[torch.Tensor, "..."]) -> Float64[np.ndarray, "..."]:
    wide: Float64[np.ndarray, "..."] = tensor.double().numpy()
    return wide
