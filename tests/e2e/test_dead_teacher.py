"""A teacher that cannot load its weights ends the run with its own message."""

import json
import shutil

import pytest

from orchestrator.assets import resolve
from orchestrator.config import load_run
from orchestrator.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_dead_teacher_is_named(shared_ray, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    shutil.copytree(resolve("asset:toy/sentencepiece"), broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    methods = [{"name": "alm"}]
    teacher = {"name": "broken", "model": str(broken), "device": "cpu", "methods": methods}
    overrides = [f"teachers={json.dumps([teacher])}", f"output_dir={tmp_path}/run"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the weights cannot be read"):
        train(load_run("smoke.yaml", overrides))
