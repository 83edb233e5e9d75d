"""Which weights a model has: a copy is the same one, a trained one is not."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.model_identity import SAMPLE_BYTES, model_identity
from teachers.source import ModelSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small weights, and some larger than all samples together."""
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    save_file({"small": torch.randn(3)}, folder / "a.safetensors")
    save_file({"large": torch.randn(100 * SAMPLE_BYTES // 4)}, folder / "b.safetensors")
    return folder


def identity(folder: Path) -> str:
    return model_identity(ModelSource(str(folder)))


def test_a_copy_is_the_same_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert identity(tmp_path / "copy") == identity(folder)


@pytest.mark.parametrize("name", ["a.safetensors", "b.safetensors"])
def test_other_numbers_are_another_model(folder, name):
    before = identity(folder)
    content = bytearray((folder / name).read_bytes())
    half = len(content) // 2  # a training run changes them all; here one half
    content[half:] = bytes(byte ^ 1 for byte in content[half:])
    (folder / name).write_bytes(content)
    assert identity(folder) != before


def test_the_last_bytes_count(folder):
    before = identity(folder)
    content = bytearray((folder / "b.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "b.safetensors").write_bytes(content)
    assert identity(folder) != before


def test_a_missing_file_is_another_model(folder):
    before = identity(folder)
    (folder / "a.safetensors").unlink()
    assert identity(folder) != before


def test_a_hub_model_that_is_not_cached_goes_by_its_revision():
    source = ModelSource("nobody/no-such-model", revision="abc123")
    assert model_identity(source) == "revision abc123"


def test_another_config_is_another_model(folder):
    (folder / "config.json").write_text('{"rms_norm_eps": 1e-6}')
    before = identity(folder)
    (folder / "config.json").write_text('{"rms_norm_eps": 1e-5}')
    assert identity(folder) != before
