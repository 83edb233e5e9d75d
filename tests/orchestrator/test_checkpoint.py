"""Checkpoints are whole or not there; what is damaged is found; the right ones stay."""

import json
import logging
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.document import text_document
from orchestrator.checkpoint import (
    Inputs,
    Position,
    Retention,
    Tally,
    checkpoint_to_resume,
    clear_the_way,
    complete_checkpoints,
    describe_documents,
    flaw_of,
    require_space,
    save_checkpoint,
    save_model,
)
from orchestrator.config import parse_run
from orchestrator.errors import ConfigError, ResourcesError
from orchestrator.metrics import MetricsWriter, cut_metrics


def position(step: int, bits: float | None = None) -> Position:
    tally = Tally(1.5, 10, 90.0, 1, {"ce": 0.1 + 0.2}, {"gemma": 1 / 3})
    return Position(step, 0, Inputs({"data.train": "3 documents"}), tally, bits)


def save(folder: Path, step: int, bits: float | None = None) -> Path:
    def write_model(target: Path) -> None:
        (target / "model.safetensors").write_text(f"model {step}")

    def write_state(target: Path) -> None:
        target.mkdir()
        (target / "weights.safetensors").write_text(f"weights {step}")

    return save_checkpoint(folder, position(step, bits), write_model, write_state)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWhole:
    def test_content(self, tmp_path):
        path = save(tmp_path, 7)
        assert names(tmp_path) == ["checkpoint-7", "latest"]
        assert names(path) == ["COMPLETE", "model.safetensors", "state", "trainer_state.json"]
        assert json.loads((path / "trainer_state.json").read_text()) == {"step": 7}
        assert (tmp_path / "latest").read_text() == "checkpoint-7\n"
        assert flaw_of(path) is None

    def test_every_file_has_its_digest(self, tmp_path):
        path = save(tmp_path, 7)
        found = json.loads((path / "COMPLETE").read_text())["files"]
        files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
        assert found.keys() == files - {"COMPLETE"}

    def test_position_comes_back_bit_for_bit(self, tmp_path):
        path = save(tmp_path, 7, 1 / 3)
        assert Position.load(path) == position(7, 1 / 3)

    @pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "sealless", "nonsense"])
    def test_damage_is_found(self, tmp_path, damage):
        path = save(tmp_path, 7)
        target = path / "state" / "weights.safetensors"
        if damage == "truncated":
            target.write_text("weights")
        elif damage == "changed":
            target.write_text("weights 8")
        elif damage == "missing":
            target.unlink()
        elif damage == "sealless":
            (path / "COMPLETE").unlink()
        else:
            (path / "COMPLETE").write_text("[]")
        expected = {
            "truncated": "state/weights.safetensors has 7 bytes, was written with 9",
            "changed": "state/weights.safetensors has another content than was written",
            "missing": "state/weights.safetensors is missing",
            "sealless": "COMPLETE cannot be read (No such file or directory)",
        }
        found = flaw_of(path)
        assert found == expected[damage] if damage in expected else "damaged" in found

    def test_failure_to_write_says_what_is_left(self, tmp_path):
        save(tmp_path, 1)

        def full(target: Path) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(ResourcesError, match=r"oint-2 could not .*No space.*whole.*resume"):
            save_checkpoint(tmp_path, position(2), full, full)
        assert names(tmp_path) == ["checkpoint-1", "latest"]

    def test_final_model_is_replaced(self, tmp_path):
        for text in ("first", "second"):
            save_model(tmp_path / "final", 3, lambda f, t=text: (f / "m").write_text(t) and None)
        assert (tmp_path / "final" / "m").read_text() == "second"
        assert names(tmp_path) == ["final"]


class TestFinding:
    def test_none(self, tmp_path):
        assert checkpoint_to_resume(tmp_path) is None
        assert checkpoint_to_resume(tmp_path / "missing") is None

    def test_latest(self, tmp_path, caplog):
        paths = [save(tmp_path, step) for step in (2, 10, 9)]  # by number, not by name
        assert checkpoint_to_resume(tmp_path) == paths[2]
        assert list(complete_checkpoints(tmp_path)) == [2, 9, 10]
        assert not caplog.records

    @pytest.mark.parametrize("pointer", [None, "", "checkpoint-x", "../other"])
    def test_lost_pointer_means_the_newest(self, tmp_path, caplog, pointer):
        save(tmp_path, 1)
        newest = save(tmp_path, 2)
        (tmp_path / "latest").unlink()
        if pointer is not None:
            (tmp_path / "latest").write_text(pointer)
        assert checkpoint_to_resume(tmp_path) == newest
        assert "names no checkpoint" in caplog.text

    def test_damaged_latest_falls_back_loudly(self, tmp_path, caplog):
        save(tmp_path, 1)
        good, bad = save(tmp_path, 2), save(tmp_path, 3)
        (bad / "model.safetensors").write_text("m")
        with caplog.at_level(logging.WARNING):
            assert checkpoint_to_resume(tmp_path) == good
        assert "RESUMING FROM checkpoint-2 INSTEAD: checkpoint-3: model.safetensors" in caplog.text

    def test_deleted_latest_falls_back(self, tmp_path, caplog):
        good, gone = save(tmp_path, 1), save(tmp_path, 2)
        shutil.rmtree(gone)
        assert checkpoint_to_resume(tmp_path) == good
        assert "INSTEAD: checkpoint-2: COMPLETE cannot be read" in caplog.text

    def test_nothing_whole_is_an_error(self, tmp_path):
        for step in (1, 2):
            (save(tmp_path, step) / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=r"no checkpoint .* is whole: checkpoint-2.*oint-1"):
            checkpoint_to_resume(tmp_path)

    def test_the_way_is_cleared(self, tmp_path):
        kept = save(tmp_path, 1)
        newer = save(tmp_path, 2)
        (tmp_path / ".checkpoint-3.abcd.partial").mkdir()
        (tmp_path / ".latest.abcd.partial").write_text("x")
        (tmp_path / "checkpoint-notes").mkdir()
        clear_the_way(tmp_path, kept)
        assert kept.exists()
        assert not newer.exists()
        aside = [path for path in tmp_path.glob("checkpoint-2.aside-*")]
        assert flaw_of(aside[0]) is None  # nothing was deleted
        assert len(names(tmp_path)) == 4
        save(tmp_path, 2)  # the name is free again
        assert list(complete_checkpoints(tmp_path)) == [1, 2]


class TestRetention:
    def run(self, folder, retention, scores):
        for step, bits in enumerate(scores, start=1):
            save(folder, step, bits)
            retention.apply(folder)
        return list(complete_checkpoints(folder))

    def test_no_limit_keeps_all(self, tmp_path):
        assert self.run(tmp_path, Retention(), [None] * 4) == [1, 2, 3, 4]
        assert not (tmp_path / "best.json").exists()

    def test_the_oldest_goes(self, tmp_path):
        assert self.run(tmp_path, Retention(2), [None] * 5) == [4, 5]
        assert names(tmp_path) == ["checkpoint-4", "checkpoint-5", "latest"]

    def test_the_best_stays(self, tmp_path):
        assert self.run(tmp_path, Retention(2, True), [3.0, 1.0, 2.0, 2.5]) == [2, 4]
        found = json.loads((tmp_path / "best.json").read_text())
        expected = {"checkpoint": "checkpoint-2", "step": 2, "validation_bits_per_byte": 1.0}
        assert found == expected

    def test_limit_one_keeps_latest_and_best(self, tmp_path):
        assert self.run(tmp_path, Retention(1, True), [1.0, 2.0, 3.0]) == [1, 3]

    @pytest.mark.parametrize("content", ['{"ste', "[]", '{"inputs": {}, "tally": {}}', "{}", None])
    def test_a_damaged_one_is_passed_over(self, tmp_path, caplog, content):
        save(tmp_path, 1, 0.5)
        path = tmp_path / "checkpoint-1" / "state" / "position.json"
        path.unlink() if content is None else path.write_text(content)
        save(tmp_path, 2, 1.0)
        save(tmp_path, 3, 2.0)
        Retention(2, keep_best=True).apply(tmp_path)
        assert list(complete_checkpoints(tmp_path)) == [2, 3]
        assert json.loads((tmp_path / "best.json").read_text())["step"] == 2
        assert (
            "checkpoint-1 is damaged and cannot be the best (state/position.json: " in caplog.text
        )

    def test_the_best_is_none_that_was_set_aside(self, tmp_path):
        assert self.run(tmp_path, Retention(3, True), [2.0, 3.0, 1.0]) == [1, 2, 3]
        clear_the_way(tmp_path, tmp_path / "checkpoint-2")
        assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "checkpoint-1"
        clear_the_way(tmp_path, None)
        assert not (tmp_path / "best.json").exists()

    @given(
        scores=st.lists(st.integers(0, 5).map(float), min_size=1, max_size=7),
        limit=st.integers(1, 4),
    )
    def test_always(self, tmp_path_factory, scores, limit):
        folder = tmp_path_factory.mktemp("run")
        found = self.run(folder, Retention(limit, True), scores)
        best = min(range(len(scores)), key=lambda i: (scores[i], i)) + 1
        assert {best, len(scores)} <= set(found)
        assert len(found) <= max(limit, 2)
        assert len(found) >= min(limit, len(scores))

    def test_deletion_that_is_cut_short_leaves_no_half_checkpoint(self, tmp_path, monkeypatch):
        save(tmp_path, 1)
        save(tmp_path, 2)

        def killed(path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                Retention(1).apply(tmp_path)
        assert list(complete_checkpoints(tmp_path)) == [2]
        clear_the_way(tmp_path, tmp_path / "checkpoint-2")
        assert names(tmp_path) == ["checkpoint-2", "latest"]


@pytest.mark.parametrize(
    ("train", "validation", "missing"),
    [
        ({"save_steps": 5}, [], "true needs data.validation to choose by"),
        ({}, ["v.jsonl"], "true needs train.save_steps above 0"),
    ],
)
def test_the_best_needs_something_to_choose_by(train, validation, missing):
    data = {"train": ["t.jsonl"], "held_out": ["h.jsonl"], "validation": validation}
    keys = {"student": {"init": "x"}, "data": data, "output_dir": "x"}
    with pytest.raises(ConfigError, match=f"train.keep_best: {missing}"):
        parse_run(keys | {"train": train | {"keep_best": True}})
    parse_run(keys | {"train": train})


class TestSpace:
    def test_too_little(self, tmp_path, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2_000_000_000))
        require_space(tmp_path, 1_800_000_000)
        with pytest.raises(ResourcesError, match=r"about 2,062,108,864 bytes, but only 2,000,0"):
            require_space(tmp_path, 1_900_000_000)

    def test_enough(self, tmp_path):
        require_space(tmp_path / "new", 1)
        assert (tmp_path / "new").is_dir()


class TestInputs:
    def test_order_and_content_of_documents_count(self):
        a, b = text_document("a", "one"), text_document("b", "two")
        texts = {describe_documents(d) for d in ([a, b], [b, a], [a], [a, a])}
        assert len(texts) == 4
        assert describe_documents([a, b]) == describe_documents([text_document("c", "one"), b])

    def test_changes_are_named(self):
        before, now = Inputs({"x": "1", "y": "2"}), Inputs({"x": "1", "z": "3"})
        assert now.changed(before) == ["y: 2 -> None", "z: None -> 3"]
        assert before.changed(before) == []


class TestMetrics:
    def lines(self, folder: Path) -> list[int]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def test_each_step_once(self, tmp_path):
        with MetricsWriter(tmp_path) as metrics:
            for step in range(5):
                metrics.write(step, {"loss": 1.0})
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"time": 1, "step": 1')  # killed while it wrote
        cut_metrics(tmp_path, 3)
        assert self.lines(tmp_path) == [0, 1, 2]
        kept = next(tmp_path.glob("metrics.cut-*.jsonl")).read_text().splitlines()
        assert [json.loads(line)["step"] for line in kept[:2]] == [3, 4]
        assert kept[2] == '{"time": 1, "step": 1'
        with MetricsWriter(tmp_path, 3) as metrics:
            metrics.write(3, {"loss": 1.0})
            metrics.sync()
        assert self.lines(tmp_path) == [0, 1, 2, 3]

    def test_nothing_to_cut(self, tmp_path):
        cut_metrics(tmp_path, 3)
        with MetricsWriter(tmp_path) as metrics:
            metrics.write(0, {"loss": 1.0})
        cut_metrics(tmp_path, 1)
        assert self.lines(tmp_path) == [0]
        assert not list(tmp_path.glob("metrics.cut-*"))
