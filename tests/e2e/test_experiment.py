"""A toy experiment on real processes: killed, resumed, and told twice."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.config import load_experiment
from orchestrator.errors import ConfigError
from orchestrator.experiment.run import run_experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KL = "{name: bytelevel, methods: [{name: kl}]}"
ALM = "{name: sentencepiece, methods: [{name: alm, temperature: 2.0}]}"
OWN = "{name: own, kind: self, device: cpu, methods: [{name: alm}]}"
PATIENCE_S = 600.0


def settings(folder: Path, teachers: str, *more: str) -> list[str]:
    """Of an experiment with cross-entropy alone and one arm with these teachers."""
    arms = f"arms=[{{name: ce}}, {{name: taught, teachers: [{teachers}]}}]"
    run = ["data.train_limit=40", "data.held_out_limit=10", "train.max_steps=4"]
    overrides = json.dumps([*run, "student.threads=1", *more])
    return [arms, "seeds=[0]", f"output_dir={folder}", f"overrides={overrides}"]


def test_two_arms_and_one_that_is_done(shared_ray, tmp_path):
    """A student that gets bytes, taught by its own original."""
    given = ["student.init=asset:toy/bytelevel", "student.tokenizer=bytes", f"teachers=[{OWN}]"]
    taught_by = "{name: own, methods: [{name: alm, temperature: 2.0}]}"
    config = load_experiment("experiments/smoke.yaml", settings(tmp_path / "e", taught_by, *given))
    results = run_experiment(config)
    ce, taught = results.arms
    assert set(taught.gradient_share) == {"ce", "own"}
    assert taught.bits_per_byte[0] < results.before
    lost = results.before - results.teachers["own"]
    won = results.before - ce.bits_per_byte[0]
    assert ce.gap_recovered.value == pytest.approx(won / lost)
    told = (tmp_path / "e" / "experiment.json").read_text()
    assert json.loads(told)["against_baseline"][0]["arm"] == "taught"
    run_experiment(config, resume=True)  # nothing is left to do
    assert (tmp_path / "e" / "experiment.json").read_text() == told


@pytest.mark.nightly
def test_killed_resumed_and_refused(tmp_path):
    folder, both = tmp_path / "e", f"{KL}, {ALM}"
    command = "from orchestrator.cli import main; main()"
    arguments = ["experiment", "experiments/smoke.yaml", *settings(folder, both)]
    first = folder / "arms/ce/seed-0/outcome.json"
    deadline = time.monotonic() + PATIENCE_S
    with subprocess.Popen([sys.executable, "-c", command, *arguments], cwd=ROOT) as process:
        try:
            while not first.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.kill()
    assert not (folder / "experiment.json").exists()
    written = first.stat().st_mtime_ns

    config = load_experiment("experiments/smoke.yaml", settings(folder, both))
    results = run_experiment(config, resume=True)
    assert first.stat().st_mtime_ns == written  # the finished arm was not run again
    assert set(results.arms[1].gradient_share) == {"ce", "bytelevel", "sentencepiece"}
    assert set(results.teachers) == {"bytelevel", "sentencepiece"}
    assert not [*folder.rglob("*.safetensors")]

    changed = load_experiment(
        "experiments/smoke.yaml",
        [*settings(folder, both), "arms.ce.overrides=[train.learning_rate=1e-4]"],
    )
    with pytest.raises(
        ConfigError, match=r"ce seed 0: .*(\n.*)*train.learning_rate: 0.003 -> 0.0001"
    ):
        run_experiment(changed, resume=True)
