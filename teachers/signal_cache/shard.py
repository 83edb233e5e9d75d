"""Some documents' signals as the content of one safetensors file.

Each array of each signal is a tensor of its own, named ``document.place.field``; bfloat16 stays the
int16 bit patterns that signals have. The file's metadata holds the kind of each signal and what
else it has: numbers and sentences.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.numpy import save

from losses.methods import method_class, method_names
from losses.signals import Signal
from teachers.document_signals import DocumentSignals

ROWS = "rows"
"""Key of the metadata: for each document a list of its signals' kinds and plain fields, as JSON."""

KIND = "kind"


def encode(rows: Sequence[DocumentSignals]) -> bytes:
    """The content of a file that holds these rows, in their order."""
    tensors: dict[str, Shaped[np.ndarray, "..."]] = {}
    plain: list[list[dict[str, Any]]] = []
    for index, row in enumerate(rows):
        plain.append([])
        for place, signal in enumerate(row):
            values = {field.name: getattr(signal, field.name) for field in fields(signal)}
            arrays = {name: value for name, value in values.items() if _is_array(value)}
            tensors |= {f"{index}.{place}.{name}": value for name, value in arrays.items()}
            others = {name: value for name, value in values.items() if name not in arrays}
            plain[-1].append({KIND: type(signal).__name__, **others})
    return save(tensors, metadata={ROWS: json.dumps(plain)})


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


class Shard:
    """A file that ``encode`` made; rows are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        opened: Any = safe_open(path, framework="numpy")
        self._file = opened
        self._rows: list[list[dict[str, Any]]] = json.loads(self._file.metadata()[ROWS])

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int, places: Sequence[int] | None = None) -> DocumentSignals:
        """The signals of one document; those at some places of its row, or all."""
        wanted = range(len(self._rows[index])) if places is None else places
        return tuple(self._signal(index, place) for place in wanted)

    def _signal(self, index: int, place: int) -> Signal:
        plain = dict(self._rows[index][place])
        kind = kinds_of_signals()[plain.pop(KIND)]
        names = (field.name for field in fields(kind) if field.name not in plain)
        arrays = {name: self._file.get_tensor(f"{index}.{place}.{name}") for name in names}
        build: Callable[..., Signal] = kind
        return build(**plain, **arrays)


@lru_cache(maxsize=1)
def kinds_of_signals() -> Mapping[str, type[Signal]]:
    """Every class of signals by its name: the shared ones, and those that the methods define."""
    for name in method_names():
        method_class(name)  # importing it defines its signals
    return {kind.__name__: kind for kind in _below(Signal)}


def _below(kind: type[Signal]) -> Iterator[type[Signal]]:
    for lower in kind.__subclasses__():
        yield lower
        yield from _below(lower)
