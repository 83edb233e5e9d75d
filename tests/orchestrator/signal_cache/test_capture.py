"""A capture asks once for everything, and one that was killed or damaged goes on."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import ConfigError, ResourcesError
from orchestrator.setup import set_up
from orchestrator.signal_cache import capture as module
from orchestrator.signal_cache.capture import capture, capture_spec, first_epoch
from orchestrator.signal_cache.writer import CacheWriter
from teachers.signal_cache.cache import READING, SHARDS, TOKENIZER, SignalCache
from teachers.teacher import Teacher


class Killed(Exception):
    """Stands for a process that ends here."""


@pytest.fixture
def shard_by_shard(monkeypatch) -> None:
    """Each group of documents is a shard of its own."""
    monkeypatch.setattr(module, "SHARD_BYTES", 1)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shards/*.safetensors"))


def test_everything_is_there_once(captured, small_run):
    config = small_run()
    setup = set_up(config)
    for name, folder in captured.items():
        cache = SignalCache.open(folder)
        assert all(cache.has_signals(document) for document in setup.train.documents)
        assert cache.scored_digests() == {d.digest for d in setup.held_out.documents}
        stored = [d for s in cache.shards if s.facts.holds == "signals" for d in s.facts.documents]
        assert len(stored) == len(set(stored))
        needs_head = name == "bytelevel"  # kl
        assert [s for s in cache.shards if s.facts.holds == "head"] != [] or not needs_head
        assert cache.manifest.teacher.name == name
        assert not list(folder.rglob("*.partial"))


def test_groups_are_those_of_the_first_epoch(small_run):
    config = small_run("student.num_ranks=2", "data.train_limit=10")
    documents = set_up(config).train.documents
    groups = list(first_epoch(documents, config))
    assert [len(group) for group in groups] == [2] * 6  # the last two hold a second epoch's
    assert {document.name for group in groups for document in group} == {
        document.name for document in documents
    }


def test_a_killed_capture_goes_on(small_run, tmp_path, contents, monkeypatch, shard_by_shard):
    config, whole, folder = small_run(), tmp_path / "whole", tmp_path / "killed"
    capture(config, "bytelevel", whole)
    write, asked, signals = CacheWriter._write, [], Teacher.signals

    def counting(teacher, documents):
        asked.append(len(documents))
        return signals(teacher, documents)

    monkeypatch.setattr(Teacher, "signals", counting)
    for round_ in range(8):
        calls = iter(range(8))

        def fails(writer, *args, calls=calls):
            if next(calls) == 1:
                raise Killed
            write(writer, *args)

        monkeypatch.setattr(CacheWriter, "_write", fails)
        try:
            capture(config, "bytelevel", folder, resume=round_ > 0)
        except Killed:
            continue
        break
    else:
        pytest.fail("it never came to its end")
    assert round_ == 4  # three groups, the scores, the head: one more in each round
    assert asked == [4, 4, 4, 4, 4]  # what was not written is asked again, and nothing else
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "facts"])
def test_damaged_shards_are_made_again(
    small_run, tmp_path, contents, monkeypatch, shard_by_shard, damage
):
    config, folder = small_run(), tmp_path / "cache"
    assert capture(config, "sentencepiece", folder).num_asked == 12
    before = contents(folder)
    path = shards(folder)[1]
    if damage == "flip":
        flipped = bytearray(path.read_bytes())
        flipped[-1] ^= 1
        path.write_bytes(flipped)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "delete":
        path.unlink()
    else:
        path.with_suffix(".json").write_text("{")
    found = capture(config, "sentencepiece", folder, resume=True)
    assert (found.num_mended, found.num_documents, found.num_scores) == (1, 12, 3)
    assert found.num_asked in (0, 4)  # the scores are a shard too
    assert contents(folder) == before


def test_nothing_is_left_to_ask(captured, small_run, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    shutil.copytree(captured["bytelevel"], folder)
    monkeypatch.setattr(Teacher, "signals", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(Teacher, "evaluate", lambda *_: pytest.fail("asked"))
    assert capture(small_run(), "bytelevel", folder, resume=True).num_asked == 0


def test_a_full_disk_is_told_before_anything_is_written(small_run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourcesError, match="signals of 12 documents need about"):
        capture(small_run(), "bytelevel", tmp_path / "cache")
    assert not shards(tmp_path / "cache")


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        ("train.seed=1", "grouping.seed: the cache has 0, the run asks for 1"),
        ("train.global_batch=2", "grouping.global_batch: the cache has 4, the run asks for 2"),
        ("teachers.bytelevel.token_budget=64", "grouping.token_budget: the cache has 4096, "),
        ("data.train_limit=8", "data.train: the cache has "),
        ("data.max_length=64", "data.max_length: the cache has 512, the run asks for 64"),
        ("teachers.bytelevel.dtype=bfloat16", 'teacher.dtype: the cache has "float32", '),
        ("teachers.bytelevel.model=asset:toy/student", "teacher.weights: the cache has "),
    ],
)
def test_what_is_gone_on_with_must_be_the_same(
    captured, small_run, tmp_path, overrides, difference
):
    folder = tmp_path / "cache"
    shutil.copytree(captured["bytelevel"], folder)
    with pytest.raises(ConfigError) as caught:
        capture(small_run(overrides), "bytelevel", folder, resume=True)
    assert difference in str(caught.value)
    assert str(caught.value).startswith(f"--output: {folder} holds other signals than this run's")


def test_what_is_in_the_way(small_run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not empty; pass --resume"):
        capture(small_run(), "bytelevel", tmp_path)
    with pytest.raises(ConfigError, match=r"holds file but no manifest\.json"):
        capture(small_run(), "bytelevel", tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r'--teacher: unknown teacher.*"bytelevel"'):
        capture(small_run(), "bytelevl", tmp_path / "new")


def test_a_folder_that_is_no_cache_is_left_alone(small_run, tmp_path, contents):
    """Data in shards, or a model's tokenizer, may lie where a cache would have its own."""
    for name in ("shards/index.json", "tokenizer/vocab.txt"):
        folder = tmp_path / Path(name).parent.name
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
        with pytest.raises(ConfigError, match=r"holds (shards|tokenizer) but no manifest\.json"):
            capture(small_run(), "bytelevel", folder, resume=True)
        assert contents(folder) == {name: b"{}"}


def test_a_tokenizer_without_a_manifest_is_gone_on_with(captured, small_run, tmp_path):
    """A capture that was killed before it wrote its manifest."""
    folder = tmp_path / "cache"
    folder.mkdir()
    shutil.copyfile(captured["bytelevel"] / READING, folder / READING)
    (folder / TOKENIZER).mkdir()
    assert capture(small_run(), "bytelevel", folder, resume=True).num_asked == 12


def test_damaged_shards_of_other_signals_stay(captured, small_run, tmp_path, contents):
    folder = tmp_path / "cache"
    shutil.copytree(captured["bytelevel"], folder)
    shards(folder)[0].write_bytes(b"")
    before = contents(folder)
    with pytest.raises(ConfigError, match="holds other signals"):
        capture(small_run("train.seed=1"), "bytelevel", folder, resume=True)
    assert contents(folder) == before


def test_shards_of_another_teacher_are_made_again(captured, small_run, tmp_path, contents):
    folder = tmp_path / "cache"
    shutil.copytree(captured["sentencepiece"], folder)
    shutil.rmtree(folder / SHARDS)
    shutil.copytree(captured["bytelevel"] / SHARDS, folder / SHARDS)
    capture(small_run(), "sentencepiece", folder, resume=True)
    assert contents(folder) == contents(captured["sentencepiece"])


def test_a_cache_is_not_captured(captured, from_caches, tmp_path):
    with pytest.raises(ConfigError, match="bytelevel is a cache already"):
        capture(from_caches(captured), "bytelevel", tmp_path / "new")


def test_the_command(captured, small_keys, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(captured["bytelevel"], folder)
    command = [
        "capture",
        "smoke.yaml",
        *small_keys,
        "--teacher",
        "bytelevel",
        "--output",
        str(folder),
    ]
    runner = CliRunner()
    refused = runner.invoke(app, command)
    assert refused.exit_code == 2
    assert "is not empty; pass --resume" in refused.stderr
    done = runner.invoke(app, [*command, "--resume", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["folder"], found["num_documents"], found["num_asked"]) == (str(folder), 12, 0)


def test_the_teacher_is_that_of_the_run(small_run):
    spec = capture_spec(small_run("teachers.bytelevel.token_budget=99"), "bytelevel")
    assert (spec.name, spec.token_budget, spec.threads, spec.record) == ("bytelevel", 99, 1, None)


@pytest.mark.parametrize("shared", ["resources.offload=true", "student.resources.gpus=1"])
def test_it_has_the_gpu_alone(small_run, monkeypatch, shared):
    """Where the run's processes take turns on it, or the student takes all of it."""
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 1)
    config = small_run("teachers.bytelevel.device=cuda", "student.device=cuda", shared)
    assert capture_spec(config, "bytelevel").device == "cuda"
