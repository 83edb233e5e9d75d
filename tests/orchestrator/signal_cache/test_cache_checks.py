"""A cache that is not what a run asks for is refused before anything starts, key by key."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.setup import set_up
from orchestrator.validation import validate
from teachers.signal_cache.cache import MANIFEST, SHARDS, read_manifest

LONG = "train.max_steps=9"


def refusal(config: RunConfig) -> str:
    """What both the run and ``validate`` say against it."""
    with pytest.raises(ConfigError) as caught:
        set_up(config)
    with pytest.raises(ConfigError) as validated:
        list(validate(config, strict=True))
    assert str(validated.value) == str(caught.value)
    return str(caught.value)


@pytest.fixture
def copied(captured, tmp_path) -> dict[str, Path]:
    for name, folder in captured.items():
        shutil.copytree(folder, tmp_path / name)
    return {name: tmp_path / name for name in captured}


def changed(folder: Path, **facts: Any) -> None:
    """Let the cache's teacher have been another one."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["teacher"] |= facts
    (folder / MANIFEST).write_text(json.dumps(manifest))
    for path in (folder / SHARDS).glob("*.json"):
        stamp = {"teacher": read_manifest(folder).teacher.fingerprint}
        path.write_text(json.dumps(json.loads(path.read_text()) | stamp))


def test_the_run_that_was_captured(captured, from_caches):
    lines = list(validate(from_caches(captured), strict=True))
    for name, folder in captured.items():
        assert (
            f"{name}: signals of 12 documents from {folder}, those of the live teacher to the last "
            "bit"
        ) in lines


def test_another_order_is_served_to_rounding(captured, from_caches):
    lines = list(validate(from_caches(captured, "train.seed=3"), strict=True))
    told = [line for line in lines if line.startswith("bytelevel: signals")]
    assert "to rounding (seed: the cache has 0, the run asks for 3)" in told[0]


def test_the_model_may_be_named(captured, from_caches):
    named = "teachers.bytelevel.model=asset:toy/bytelevel"
    set_up(from_caches(captured, named))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("teachers.bytelevel.dtype=bfloat16", 'dtype: the cache has "float32", the run asks for'),
        ("teachers.bytelevel.template=plain", 'template: the cache has null, the run asks for "pl'),
        (
            "teachers.bytelevel.start_token=<|endoftext|>",
            'start_token: the cache has null, the run asks for "<|endoftext|>"',
        ),
        (
            "teachers.bytelevel.model_options={attn_implementation: eager}",
            "model_options: the cache has {}, the run asks for {",
        ),
        (
            "teachers.bytelevel.methods=[{name: kl, divergence: reverse}]",
            'methods[0] (kl): divergence: the cache has "forward", the run asks for "reverse"',
        ),
        (
            "teachers.bytelevel.methods=[{name: kl}, {name: alm}]",
            "methods[1] (alm): the cache has no signals for alm; expected one of: kl",
        ),
        (
            "mixture.weights=confidence",
            "asks: mixture.weights judges the teacher by its ce, the cache has nothing of the kind",
        ),
        ("teachers.bytelevel.model=asset:toy/sentencepiece", "model: the cache is of weights "),
    ],
)
def test_differences_are_named(captured, from_caches, override, expected):
    assert f"teachers[0] (bytelevel).{expected}" in refusal(from_caches(captured, override))


def test_weights_that_were_trained_since(copied, from_caches):
    changed(copied["bytelevel"], weights="weights 0000", tokenizer="0000")
    assert set_up(from_caches(copied))  # nothing is named that could differ
    found = refusal(from_caches(copied, "teachers.bytelevel.model=asset:toy/bytelevel"))
    assert "model: the cache is of weights 0000, asset:toy/bytelevel has weights " in found
    assert "model: the cache is of the tokenizer 0000, asset:toy/bytelevel has " in found


def test_every_cache_is_looked_at(captured, from_caches):
    found = refusal(
        from_caches(
            captured,
            "teachers.bytelevel.dtype=bfloat16",
            "teachers.sentencepiece.methods=[{name: alm}]",
        )
    )
    assert "teachers[0] (bytelevel).dtype: " in found
    assert "teachers[1] (sentencepiece).methods[0] (alm): temperature: the cache has 2.0" in found


def test_more_text_than_was_captured(captured, from_caches):
    more = ("data.train_limit=14", "data.held_out_limit=4")
    found = refusal(from_caches(captured, *more, LONG))
    assert "teachers[0] (bytelevel).path: 2 documents of data.train are not in " in found
    assert "the first is asset:toy/train.jsonl:13; capture the text" in found
    assert "teachers[1] (sentencepiece).path: 1 documents of data.held_out are not in " in found


def test_less_text_is_served(captured, from_caches):
    assert set_up(from_caches(captured, "data.train_limit=9", "data.held_out_limit=2"))


def test_text_that_is_cut_otherwise(captured, small_run, from_caches):
    found = refusal(from_caches(captured, "data.max_length=16"))
    assert "data.max_length: the cache has 512, the run asks for 16" in found
    methods = "methods: [{name: alm, temperature: 2.0}]"
    teacher = f"{{name: t, kind: cache, path: {captured['sentencepiece']}, {methods}}}"
    keys = ("student.init=asset:toy/sentencepiece", f"teachers=[{teacher}]", "data.max_length=16")
    other = refusal(small_run(*keys))
    assert "the student of the cache's run has another tokenizer, in whose tokens" in other


def test_shards_that_are_missing(copied, from_caches):
    [path] = (copied["bytelevel"] / SHARDS).glob("signals-*.safetensors")
    path.unlink()
    found = refusal(from_caches(copied))
    assert f"{path.name} is missing (12 documents); make it again from the live teacher" in found


def test_shards_of_another_teacher(copied, from_caches):
    """Both caches are whole, but one has the other's shards."""
    shutil.rmtree(copied["bytelevel"] / SHARDS)
    shutil.copytree(copied["sentencepiece"] / SHARDS, copied["bytelevel"] / SHARDS)
    found = refusal(from_caches(copied))
    assert "is of another cache, or the manifest was changed (12 documents)" in found


def test_a_manifest_that_was_changed(copied, from_caches):
    text = (copied["bytelevel"] / MANIFEST).read_text()
    (copied["bytelevel"] / MANIFEST).write_text(text.replace('"float32"', '"bfloat16"'))
    found = refusal(from_caches(copied, "teachers.bytelevel.dtype=bfloat16"))
    assert "is of another cache, or the manifest was changed" in found


def test_a_head_that_is_not_there(copied, from_caches):
    for path in (copied["bytelevel"] / SHARDS).glob("head-*"):
        path.unlink()
    found = refusal(from_caches(copied))
    assert f"teachers[0] (bytelevel).path: {copied['bytelevel']} holds no head; make it" in found


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["teachers.bytelevel.path=null"], "path: missing; expected a folder that tutelage"),
        (["teachers.bytelevel.record=x"], "record: only a teacher of kind hf or self or openai"),
        (["teachers.bytelevel.device=cuda"], "device: a teacher of kind cache runs no model"),
        (["teachers.bytelevel.parity_tolerance=0.1"], "parity_tolerance: without model_parity it"),
        (
            ["teachers.bytelevel.kind=hf", "teachers.bytelevel.model=m"],
            "path: only a teacher of kind cache takes it; leave it out",
        ),
    ],
)
def test_keys_that_do_not_go_together(captured, from_caches, overrides, expected):
    with pytest.raises(ConfigError) as caught:
        from_caches(captured, *overrides)
    assert f"teachers[0] (bytelevel).{expected}" in str(caught.value)


def test_a_path_that_is_no_cache(captured, from_caches, tmp_path):
    found = refusal(from_caches(captured | {"bytelevel": tmp_path}))
    assert f"teachers[0] (bytelevel).path: {tmp_path} holds no manifest.json" in found
