"""The sums, the two ways to cut them, and what is measured on a student's answers."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from orchestrator.assets.numerals.build import build_numerals
from orchestrator.assets.numerals.text import sums_split
from orchestrator.assets.numerals.tokenizers import sums_tokenizer


@pytest.fixture(scope="module")
def numerals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numerals")
    build_numerals(folder, {"digits": 1, "numerals": 1})
    return folder


def test_every_sum_is_right():
    parts = sums_split()
    for row in (*parts.train, *parts.validation, *parts.held_out):
        for line in row.text.splitlines():
            left, _, answer = line.removesuffix(".").partition(" = ")
            a, b = left.split(" + ")
            assert int(a) + int(b) == int(answer)
    assert len({row.text for row in (*parts.train, *parts.held_out)}) == 640


@pytest.mark.parametrize(
    ("cutting", "tokens"),
    [
        ("digits", ["4", "8", " +", " ", "7", " =", " ", "5", "5", ".", "\n"]),
        ("numerals", ["48", " +", " ", "7", " =", " ", "55", ".", "\n"]),
    ],
)
def test_cutting(cutting, tokens):
    tokenizer = sums_tokenizer([row.text for row in sums_split().train], cutting)
    assert [
        tokenizer.decode([token]) for token in tokenizer("48 + 7 = 55.\n")["input_ids"]
    ] == tokens


def test_build_is_deterministic_and_round_trips(numerals: Path, tmp_path: Path):
    build_numerals(tmp_path, {"digits": 1, "numerals": 1})
    files = sorted(path.relative_to(numerals) for path in numerals.rglob("*") if path.is_file())
    for file in files:
        assert (tmp_path / file).read_bytes() == (numerals / file).read_bytes(), file
    text = sums_split().held_out[0].text
    for name in ("teacher", "student"):
        tokenizer = AutoTokenizer.from_pretrained(numerals / name)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
