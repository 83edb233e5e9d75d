"""`tutelage ensemble` on small models."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli import app

pytestmark = pytest.mark.usefixtures("log_levels")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["ensemble", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(language_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("bytelevel", "sentencepiece"):
        model = language_model(tokenizer=name, initializer_range=0.1)
        model.model.save_pretrained(folder / name)
        model.tokenizer.fast.save_pretrained(folder / name)
    (folder / "data.jsonl").write_text(json.dumps({"text": "A text of some words."}))
    return folder


def test_scores_and_writes_as_json(folder: Path):
    names = [folder / "bytelevel", folder / "sentencepiece"]
    found = run(
        *names, "--data", folder / "data.jsonl", "--text", "Another one", "--prompt", "A te",
        "--chat", "Hello", "--max-new-bytes", 4, "--weight", 3, "--weight", 1, "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    data, text = result["scores"]
    assert data["interface"] == "bytes"
    assert (data["num_bytes"], text["num_bytes"]) == (21, 11)
    assert list(data["weights"].values()) == [0.75, 0.25]
    assert list(data["members"]) == [str(name) for name in names]
    assert [row["prompt"] for row in result["written"]] == ["A te", "Hello"]
    assert all(row["num_bytes"] <= 4 for row in result["written"])
    assert set(result["written"][0]) == {
        "prompt", "text", "num_bytes", "nats", "num_drawn", "stopped",
    }  # fmt: skip


def test_prints_a_table_of_one_vocabulary(folder: Path):
    name = folder / "bytelevel"
    found = run(name, name, "--text", "Some words", "--prompt", "So", "--max-new-tokens", 2)
    assert found.exit_code == 0, found.output
    assert "mixed token by token" in " ".join(found.stdout.split())
    assert "ensemble" in found.stdout
    assert "> So\n" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["--text", "x", "--weight", "1"], "expected 2 numbers above 0"),
        (["--text", "x", "--interface", "tokens"], "2 different vocabularies"),
        (["--prompt", "x", "--max-new-tokens", "3"], "max_new_tokens has no meaning"),
    ],
)
def test_refusals(folder: Path, arguments: list[str], message: str):
    found = run(folder / "bytelevel", folder / "sentencepiece", *arguments)
    assert found.exit_code == 2
    assert message in " ".join(found.output.replace("│", " ").split())
