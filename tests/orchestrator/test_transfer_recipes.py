"""The shipped recipes of tokenizer transfer: what they name exists, and each has its small sister.

Hub ids are not looked up: the tests run without a network.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.assets import ASSETS
from orchestrator.config import load_run
from orchestrator.config.shipped import shipped_run_files
from orchestrator.errors import ConfigError
from orchestrator.references import data_references, model_references
from orchestrator.validation import validate

RECIPES = ("smollm2_to_bytes", "smollm2_to_qwen", "gemma_to_smollm2", "math_teacher")
ON_A_CPU = tuple(f"{name}.cpu.yaml" for name in RECIPES)


@pytest.mark.parametrize("name", shipped_run_files())
def test_every_asset_is_in_the_catalogue(name: str):
    config = load_run(name)
    known = {asset.name for asset in ASSETS}
    for reference in [*model_references(config), *data_references(config)]:
        if reference.asset is not None:
            path = reference.text.removeprefix("asset:")
            assert any(path == a or path.startswith(f"{a}/") for a in known), reference


@pytest.mark.parametrize("name", RECIPES)
def test_for_one_gpu(name: str):
    config = load_run(f"{name}.yaml")
    small = load_run(f"{name}.cpu.yaml")
    assert (config.student.num_ranks, config.student.device) == (1, "cuda")
    assert {teacher.device for teacher in config.teachers} <= {"cuda", "auto"}
    assert config.student.transfers == small.student.transfers == (name != "math_teacher")
    assert [t.kind for t in config.teachers] == [t.kind for t in small.teachers]
    assert config.train.save_steps


@pytest.mark.parametrize("name", ON_A_CPU)
def test_on_a_cpu_all_is_an_asset(name: str):
    config = load_run(name)
    named = [*model_references(config), *data_references(config)]
    assert all(reference.asset is not None for reference in named)
    assert config.student.device == "cpu"
    assert config.train.max_steps <= 150


def test_text_of_one_s_own_is_asked_for():
    with pytest.raises(ConfigError, match=r"data.train\[0\]: data file text/train.jsonl"):
        list(validate(load_run("smollm2_to_bytes.yaml", ["student.init=asset:toy/student"])))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ON_A_CPU)
def test_the_real_models_fit(name: str, fetched: Callable[[str], Path]):
    config = load_run(name)
    for reference in [*model_references(config), *data_references(config)]:
        fetched(reference.text)
    lines = list(validate(config, strict=name != "smollm2_to_bytes.cpu.yaml"))
    assert any(line.startswith("train: ") for line in lines)
