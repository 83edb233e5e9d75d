"""`tutelage evaluate`: which options go together, and both new kinds on small models."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli import app

pytestmark = pytest.mark.usefixtures("log_levels")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(language_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("bytelevel", "sentencepiece"):
        model = language_model(tokenizer=name, initializer_range=0.1)
        model.model.save_pretrained(folder / name)
        model.tokenizer.fast.save_pretrained(folder / name)
    texts = [f"Text number {index} has a few words in it." for index in range(6)]
    (folder / "data.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


class TestWhatGoesTogether:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["m"], "no documents; expected DATA.jsonl"),
            (["m", "n", "--ensemble"], "no documents; expected --data DATA.jsonl"),
            (["m", "d", "--ensemble", "--exposure-bias"], "exclude each other"),
            (["m", "d", "--exposure-bias"], "needs --teacher MODEL"),
            (["m", "d", "--seed", "0"], "--seed has no effect here; expected it with"),
            (["m", "d", "--teacher", "t"], "--teacher has no effect"),
            (["m", "d", "--converter", "beam"], "--ensemble or --exposure-bias"),
            (["m", "--data", "d", "--ensemble", "--num-bytes", "9"], "--num-bytes has no effect"),
            (
                ["m", "d", "--exposure-bias", "--teacher", "t", "--max-length", "9"],
                "--max-length has no effect",
            ),
            (
                ["m", "d", "--exposure-bias", "--teacher", "t", "--mean", "geometric"],
                "--mean has no effect",
            ),
        ],
    )
    def test_refused(self, arguments: list[str], message: str):
        result = run(*arguments)
        assert result.exit_code == 2
        words = " ".join(result.stderr.replace("│", " ").split())
        assert message in words

    def test_data_may_be_named_either_way(self, folder: Path):
        model, data = folder / "bytelevel", folder / "data.jsonl"
        first = run(model, data, "--json")
        assert first.exit_code == 0, first.stderr
        assert run(model, "--data", data, "--json").stdout == first.stdout


class TestEnsemble:
    def test_on_models(self, folder: Path):
        names = [folder / "bytelevel", folder / "sentencepiece"]
        arguments = [*names, "--ensemble", "--data", folder / "data.jsonl"]
        result = run(*arguments, "--converter", "on_path", "--json")
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert list(found["members"]) == list(map(str, names))
        assert 0 < found["bits_per_byte"] < sum(found["members"].values()) / 2
        other = ["--mean", "geometric", "--weight", "3", "--weight", "1"]
        weighted = json.loads(run(*arguments, "--converter", "on_path", *other, "--json").stdout)
        assert weighted["members"] == found["members"]
        assert weighted["bits_per_byte"] != found["bits_per_byte"]

    def test_wrong_weights(self, folder: Path):
        data = ["--data", folder / "data.jsonl"]
        result = run(folder / "bytelevel", "--ensemble", *data, "--weight", "1", "--weight", "1")
        assert result.exit_code == 2
        assert "expected 1 numbers above 0" in result.stderr


class TestExposureBias:
    def arguments(self, folder: Path, output: Path) -> list[object]:
        return [
            *(folder / "bytelevel", folder / "data.jsonl", "--exposure-bias"),
            *("--teacher", folder / "sentencepiece", "--num-prompts", "4"),
            *("--prompt-bytes", "12", "--num-bytes", "6", "--converter", "on_path"),
            *("--output", output),
        ]

    def test_on_models(self, folder: Path, tmp_path: Path):
        output = tmp_path / "curve.png"
        result = run(*self.arguments(folder, output))
        assert result.exit_code == 0, result.stderr
        lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
        assert lines["files"] == f"{output}, {tmp_path / 'curve.json'}"
        assert lines["num_prompts"] == "4"
        curve = json.loads((tmp_path / "curve.json").read_text())
        assert float(lines["ex_acc_err"]) == pytest.approx(curve["percent"][-1], abs=1e-3)
        assert curve["teacher"] == str(folder / "sentencepiece")
        assert output.read_bytes()[:4] == b"\x89PNG"

    @pytest.mark.nightly
    def test_seed(self, folder: Path, tmp_path: Path):
        output = tmp_path / "curve.json"
        found = []
        for seed in (0, 0, 1):
            run(*self.arguments(folder, output), "--seed", seed)
            found.append(output.read_text())
        assert found[0] == found[1] != found[2]

    def test_output_is_checked_first(self, tmp_path: Path):
        result = run(*self.arguments(tmp_path / "no models", tmp_path / "c.pdf"))
        assert result.exit_code == 2
        assert "ends in .png" in result.stderr
