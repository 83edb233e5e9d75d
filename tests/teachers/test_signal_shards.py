"""Every kind of signal comes back from a file as it was, bit for bit."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.methods import method_class, method_names
from losses.mixture import Absent, TeacherScore, Unusable
from losses.signals import Signal
from teachers.document_score import DocumentScore
from teachers.head_weights import HeadWeights
from teachers.signal_cache.parity import difference
from teachers.signal_cache.shard import KIND, Shard, encode, kinds_of_signals
from teachers.signal_cache.tables import decode_head, decode_scores, encode_head, encode_scores
from teachers.teacher import Teacher

BITS = {"int16": "bfloat16 patterns", "float16": "half", "float32": "single"}
"""Formats of an array whose annotation leaves it open."""

PLAIN: dict[type, st.SearchStrategy[Any]] = {
    float: st.floats(),
    int: st.integers(0, 2**40),
    str: st.text(),
}


def is_array(annotation: Any) -> bool:
    return hasattr(annotation, "dim_str")


def sendable() -> dict[str, type[Signal]]:
    """Kinds made of arrays and plain values; the others never leave the student."""
    return {
        name: kind
        for name, kind in kinds_of_signals().items()
        if all(is_array(field.type) or field.type in PLAIN for field in fields(kind))
    }


@st.composite
def arrays(draw: st.DrawFn, annotation: Any, sizes: dict[str, int]) -> np.ndarray:
    """Random bits: every pattern of NaN, every special value."""
    dims = annotation.dim_str.split()
    shape = [int(d) if d.isdigit() else sizes.setdefault(d, draw(st.integers(0, 3))) for d in dims]
    named = annotation.dtypes if isinstance(annotation.dtypes, list | tuple) else ()
    known = [name for name in map(str, named) if hasattr(np, name)]
    dtype = np.dtype(draw(st.sampled_from(known or list(BITS))))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype == np.bool_:
        return random.integers(0, 2, size=shape).astype(bool)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(random.bytes(count), dtype=dtype).reshape(shape)


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    kinds = sendable()
    kind = kinds[draw(st.sampled_from(sorted(kinds)))]
    sizes: dict[str, int] = {}
    return kind(
        **{
            field.name: draw(
                arrays(field.type, sizes) if is_array(field.type) else PLAIN[field.type]
            )
            for field in fields(kind)
        }
    )


def bits(signal: Signal) -> Iterator[Any]:
    yield type(signal)
    for field in fields(signal):
        value = getattr(signal, field.name)
        if isinstance(value, np.ndarray):
            yield value.dtype, value.shape, value.tobytes()
        else:
            yield type(value), repr(value)


def same(ours: tuple[Signal, ...], theirs: tuple[Signal, ...]) -> bool:
    return [list(bits(s)) for s in ours] == [list(bits(s)) for s in theirs]


@given(rows=st.lists(st.lists(signals(), max_size=3), max_size=3), data=st.data())
def test_every_kind_comes_back(tmp_path: Path, rows: list[list[Signal]], data: st.DataObject):
    path = tmp_path / "shard.safetensors"
    path.write_bytes(encode([tuple(row) for row in rows]))
    shard = Shard(path)
    assert len(shard) == len(rows)
    for index, row in enumerate(rows):
        assert same(shard.row(index), tuple(row))
        places = data.draw(st.lists(st.integers(0, len(row) - 1))) if row else []
        assert same(shard.row(index, places), tuple(row[place] for place in places))


@given(signal=signals())
def test_what_comes_back_is_at_parity(tmp_path: Path, signal: Signal):
    path = tmp_path / "shard.safetensors"
    path.write_bytes(encode([(signal,)]))
    [found] = Shard(path).row(0)
    assert difference(signal, found) == 0.0


def test_what_methods_send_can_be_stored(language_model, documents, tmp_path: Path):
    """A method's own kind of signal is found by its name, without a list of them."""
    methods = [method_class(name)() for name in method_names()]
    [row] = Teacher(language_model(), methods).signals(documents[:1])
    (tmp_path / "shard").write_bytes(encode([row]))
    assert same(Shard(tmp_path / "shard").row(0), row)


def test_names_of_kinds_say_which():
    kinds = kinds_of_signals()
    assert {Absent, Unusable, TeacherScore} <= set(kinds.values())
    assert not [kind for kind in kinds.values() if KIND in [f.name for f in fields(kind)]]

    def below(kind: type) -> Iterator[type]:
        for lower in kind.__subclasses__():
            yield lower
            yield from below(lower)

    own = [kind for kind in below(Signal) if kind.__module__.startswith(("losses", "teachers"))]
    assert len({kind.__name__ for kind in own}) == len(set(own))


@given(rows=st.lists(st.tuples(st.floats(), st.integers(0, 2**40), st.integers(0, 2**40))))
def test_scores_come_back(rows: list[tuple[float, int, int]]):
    scores = [DocumentScore(*row) for row in rows]
    assert repr(decode_scores(encode_scores(scores))) == repr(scores)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_head_comes_back(bias: bool, softcap: float | None):
    weight = torch.randn(5, 3).to(torch.bfloat16)
    head = HeadWeights(
        weight=weight.view(torch.int16).numpy(),
        bias=torch.randn(5).numpy() if bias else None,
        num_valid=4,
        scale=0.1,
        softcap=softcap,
    )
    found = decode_head(encode_head(head))
    assert found.head(torch.device("cpu")).linear.weight.equal(weight)
    assert (found.bias is None) == (not bias)
    assert (found.num_valid, found.scale, found.softcap) == (4, 0.1, softcap)
    if bias:
        np.testing.assert_array_equal(found.bias, head.bias)
