"""A teacher without a model: what it reads, and what it refuses to read."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losses.document import text_document
from losses.methods.alm import Alm
from losses.methods.kl import Kl
from losses.mixture import Absent
from orchestrator.cluster import Machine
from orchestrator.setup import set_up
from orchestrator.specs import teacher_specs
from teachers.signal_cache.cache import MANIFEST, SHARDS, SignalCache
from teachers.signal_cache.teacher import CacheTeacher
from teachers.speaker import Speaker

HOW = "tutelage capture RUN.yaml --teacher bytelevel --output {} --resume"


@pytest.fixture(scope="module")
def live(small_run) -> Speaker:
    [spec, _] = teacher_specs(small_run(), Machine(num_cpus=1, num_gpus=0.0))
    return spec.build()


@pytest.fixture(scope="module")
def text(small_run):
    return set_up(small_run())


@pytest.fixture
def copied(captured, tmp_path: Path) -> Path:
    shutil.copytree(captured["bytelevel"], tmp_path / "cache")
    return tmp_path / "cache"


def opened(folder: Path, name: str = "bytelevel") -> CacheTeacher:
    return CacheTeacher(name, SignalCache.open(folder), [Kl()])


def the_shard(folder: Path, holds: str = "signals") -> Path:
    [path] = (folder / SHARDS).glob(f"{holds}-*.safetensors")
    return path


def test_it_is_built_from_the_run_file(from_caches, captured, text):
    specs = teacher_specs(from_caches(captured), Machine(num_cpus=4, num_gpus=4.0))
    assert [spec.device for spec in specs] == ["cpu", "cpu"]
    for spec in specs:
        teacher = spec.build()
        assert isinstance(teacher, CacheTeacher)
        assert isinstance(teacher, Speaker)
        assert len(teacher.signals(text.train.documents)) == 12


def test_scores_and_head_are_the_live_ones(captured, live, text):
    stored, held_out = opened(captured["bytelevel"]), text.held_out.documents
    assert stored.evaluate(held_out) == live.evaluate(held_out)
    assert stored.evaluate(held_out[::-1]) == live.evaluate(held_out)[::-1]
    ours, theirs = stored.head_weights(), live.head_weights()
    np.testing.assert_array_equal(ours.weight, theirs.weight)
    assert (ours.num_valid, ours.scale, ours.softcap) == (
        theirs.num_valid,
        theirs.scale,
        theirs.softcap,
    )


def test_the_tokenizer_is_the_live_one(captured, live, text):
    cache = SignalCache.open(captured["bytelevel"])
    theirs = next(t for t in text.tokenizers if t.name == "bytelevel")
    ours = cache.tokenizer("other")
    assert (ours.name, ours.fingerprint, ours.max_tokens, ours.hidden_size) == (
        "other",
        theirs.fingerprint,
        theirs.max_tokens,
        theirs.hidden_size,
    )
    assert ours.vocabulary.fingerprint == theirs.vocabulary.fingerprint
    assert ours.fast.get_vocab() == theirs.fast.get_vocab()
    for document in text.train.documents:
        [mine], [other] = ours.encode([document]), theirs.encode([document])
        np.testing.assert_array_equal(mine.ids, other.ids)


def test_documents_of_other_teachers_are_absent(captured, text):
    elsewhere = replace(text.train.documents[0], teachers=("someone",))
    own = replace(text.train.documents[1], teachers=("renamed",))
    absent, [signal] = opened(captured["bytelevel"], "renamed").signals([elsewhere, own])
    assert absent == (Absent(),)
    assert not isinstance(signal, Absent)


def test_parts_are_rows_of_methods(captured, text):
    teacher = opened(captured["bytelevel"])
    [row] = teacher.signals(text.train.documents[:1])
    twice = teacher.signals_of_parts(text.train.documents[:1], [[0], []])
    assert [len(part) for part in twice] == [1, 0]
    np.testing.assert_array_equal(twice[0][0].hidden, row[0].hidden)


def test_a_document_that_is_not_there(captured):
    teacher, strange = opened(captured["bytelevel"]), text_document("strange.jsonl:1", "new")
    with pytest.raises(ValueError, match="has no signals of document strange"):
        teacher.signals([strange])
    with pytest.raises(ValueError, match="has no score of document strange"):
        teacher.evaluate([strange])


def test_other_methods_than_stored(captured):
    cache = SignalCache.open(captured["bytelevel"])
    with pytest.raises(ValueError, match="the cache has no signals for alm; expected one of: kl"):
        CacheTeacher("t", cache, [Alm()])
    with pytest.raises(ValueError, match='divergence: the cache has "forward", the run asks for'):
        CacheTeacher("t", cache, [Kl(divergence="reverse")])
    with pytest.raises(ValueError, match=r"asks: the cache .* has None, the run asks for ce"):
        CacheTeacher("t", cache, [Kl()], asks="ce")


@settings(max_examples=20)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@pytest.mark.parametrize("holds", ["signals", "scores", "head"])
def test_no_flipped_bit_is_overlooked(copied, holds, place, bit):
    path = the_shard(copied, holds)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[int(place * len(flipped))] ^= 1 << bit
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="has another content than was written") as caught:
        opened(copied)
    path.write_bytes(content)
    opened(copied)
    assert path.name in str(caught.value)
    assert HOW.format(copied) in str(caught.value)


@pytest.mark.parametrize("read_all", [True, False])
def test_missing_and_cut_shards_are_named(copied, read_all):
    the_shard(copied).unlink()
    scores = the_shard(copied, "scores")
    scores.write_bytes(scores.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is missing") as caught:
        SignalCache.open(copied).check(read_all=read_all)
    size = scores.stat().st_size
    assert f"{scores.name} has {size} bytes, was written with {size + 1} (3 documents); " in str(
        caught.value
    )
    assert "is missing (12 documents)" in str(caught.value)
    assert HOW.format(copied) in str(caught.value)


def test_a_damaged_tokenizer(copied):
    (copied / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing or has another content"):
        SignalCache.open(copied).tokenizer("t")


def test_no_cache_and_a_damaged_one(copied, tmp_path):
    with pytest.raises(ValueError, match=r"is no signal cache: manifest\.json is missing"):
        SignalCache.open(tmp_path)
    manifest = (copied / MANIFEST).read_text()
    (copied / MANIFEST).write_text(manifest.replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="damaged, or of another release: format"):
        SignalCache.open(copied)
    (copied / MANIFEST).write_text(manifest[:-3])
    with pytest.raises(ValueError, match="damaged, or of another release"):
        SignalCache.open(copied)
