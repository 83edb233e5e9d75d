"""The curve in files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import ConfigError
from orchestrator.exposure_bias.curve import exposure_bias
from orchestrator.exposure_bias.picture import check_output, save

ABOUT = {"student": "s", "teacher": "t", "seed": 3}


@pytest.fixture(scope="module")
def curve():
    student, teacher = 1 + np.random.default_rng(0).random((2, 20, 50))
    return exposure_bias(student, teacher)


def test_numbers(curve, tmp_path: Path):
    assert save(curve, ABOUT, tmp_path / "a" / "c.json") == [tmp_path / "a" / "c.json"]
    found = json.loads((tmp_path / "a" / "c.json").read_text())
    assert (found["student"], found["seed"], found["bytes"][:3]) == ("s", 3, [1, 2, 3])
    np.testing.assert_allclose(found["percent"], curve.percent, rtol=1e-5)
    assert found["student_texts"] == [20] * 50


def test_no_infinity_in_json(tmp_path: Path):
    curve = exposure_bias(np.ones((2, 1)), np.zeros((2, 1)))
    assert curve.percent.tolist() == [np.inf]
    save(curve, ABOUT, tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["percent"] == [None]


def test_picture(curve, tmp_path: Path):
    output = tmp_path / "c.png"
    assert save(curve, ABOUT, output) == [output, tmp_path / "c.json"]
    pixels = np.asarray(Image.open(output).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20  # lines, a band and letters
    first = output.read_bytes()
    save(curve, ABOUT, output)
    assert output.read_bytes() == first


def test_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch):
    check_output(Path("c.png"))
    with pytest.raises(ConfigError, match=r"ends in \.png .* or \.json"):
        check_output(Path("c.pdf"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="needs matplotlib"):
        check_output(Path("c.png"))
    check_output(Path("c.json"))
