"""A run records its teachers, and another one learns from what was recorded, bit for bit."""

import json
from pathlib import Path

import pytest

from orchestrator.config import load_run
from orchestrator.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]

NAMES = ("bytelevel", "sentencepiece")

SMALL = (
    "data.train_limit=8",
    "data.held_out_limit=3",
    "train.global_batch=4",
    "train.micro_batch=2",
    "train.max_steps=2",
    "train.warmup_steps=0",
    "compare.ce_only=null",
)
"""One epoch."""


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows]


def test_a_recorded_run_is_replayed(tmp_path):
    records = {name: tmp_path / "records" / name for name in NAMES}
    live = [f"teachers.{name}.record={folder}" for name, folder in records.items()]
    first = train(load_run("smoke.yaml", [*SMALL, *live, f"output_dir={tmp_path / 'live'}"]))
    cached = [
        text
        for name, folder in records.items()
        for text in (
            f"teachers.{name}.kind=cache",
            f"teachers.{name}.path={folder}",
            f"teachers.{name}.model=null",
        )
    ]
    second = train(load_run("smoke.yaml", [*SMALL, *cached, f"output_dir={tmp_path / 'cached'}"]))
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")
    assert second.bits_per_byte == first.bits_per_byte
    weights = "final/model.safetensors"
    live_weights = (tmp_path / "live" / weights).read_bytes()
    assert (tmp_path / "cached" / weights).read_bytes() == live_weights
