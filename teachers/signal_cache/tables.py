"""Scores and heads as the content of a safetensors file."""

from collections.abc import Sequence

import numpy as np
from safetensors.numpy import load, save

from teachers.document_score import DocumentScore
from teachers.head_weights import HeadWeights


def encode_scores(scores: Sequence[DocumentScore]) -> bytes:
    """The content of a file that holds these scores."""
    return save(
        {
            "nats": np.array([score.nats for score in scores], dtype=np.float64),
            "num_bytes": np.array([score.num_bytes for score in scores], dtype=np.int64),
            "num_tokens": np.array([score.num_tokens for score in scores], dtype=np.int64),
        }
    )


def decode_scores(file: bytes) -> list[DocumentScore]:
    """The scores whose ``encode_scores`` this is."""
    tables = load(file)
    columns = (tables[name].tolist() for name in ("nats", "num_bytes", "num_tokens"))
    return [DocumentScore(*row) for row in zip(*columns, strict=True)]


def encode_head(head: HeadWeights) -> bytes:
    """The content of a file that holds this head."""
    numbers = {"num_valid": head.num_valid, "scale": head.scale, "softcap": head.softcap}
    tensors = {name: np.asarray(value) for name, value in numbers.items() if value is not None}
    biases = {} if head.bias is None else {"bias": head.bias}
    return save({"weight": head.weight, **biases, **tensors})


def decode_head(file: bytes) -> HeadWeights:
    """The head whose ``encode_head`` this is."""
    tensors = load(file)
    return HeadWeights(
        weight=tensors["weight"],
        bias=tensors.get("bias"),
        num_valid=int(tensors["num_valid"].item()),
        scale=float(tensors["scale"].item()),
        softcap=float(tensors["softcap"].item()) if "softcap" in tensors else None,
    )
