"""``tutelage hypernet train`` and ``apply``, from the file to a folder that transformers opens."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.config.load import to_yaml
from orchestrator.hypernetwork.config import NetworkConfig
from orchestrator.hypernetwork.network import Hypernetwork
from orchestrator.hypernetwork.rows import predict_rows, source_rows
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(app, ["hypernet", *map(str, arguments)])


@pytest.fixture
def trained(run, config, tmp_path):
    """The folder of a hypernetwork trained for two steps."""
    file = tmp_path / "hypernetwork.yaml"
    file.write_text(to_yaml(config()))
    result = run("train", file, "train.max_steps=2", "network.residual=mean", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout[result.stdout.index("{\n") :])["folder"]


def test_train_then_apply(run, trained, tiny_folder, fast_tokenizers, tmp_path):
    other, target = tmp_path / "other", tmp_path / "target"
    fast_tokenizers["sentencepiece"].save_pretrained(other)
    result = run("apply", trained, tiny_folder, other, target, "--json")
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(target)
    fast = AutoTokenizer.from_pretrained(target)
    new = Tokenizer.load(ModelSource(str(target)), "new")
    own = Tokenizer.load(ModelSource(str(tiny_folder)), "own")
    init = AutoModelForCausalLM.from_pretrained(tiny_folder)
    expected = predict_rows(
        tmp_path / "run" / "final", source_rows(init, len(own.vocabulary)), own, new.vocabulary
    )
    text = [i for i, content in enumerate(new.vocabulary.token_bytes) if content]
    rows = source_rows(model, len(new.vocabulary))
    torch.testing.assert_close(rows[text], expected[text])
    ids = fast("A short text.", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] == ids.shape[1] + 2


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({"hypernetwork": "nothing"}, 2, "nothing holds no hypernetwork"),
        ({"model": "./missing"}, 2, "model folder ./missing does not exist"),
        ({"target": "."}, 1, "exists already"),
    ],
)
def test_what_is_wrong_with_apply_is_told(run, tiny_folder, tmp_path, changed, code, message):
    network = Hypernetwork(NetworkConfig(num_heads=4), num_stacked=2, hidden=32)
    TrainedHypernetwork(network, "tiny", "fingerprint", num_steps=1).save(tmp_path)
    arguments = {
        "hypernetwork": tmp_path,
        "model": tiny_folder,
        "tokenizer": "bytes",
        "target": tmp_path / "target",
    }
    result = run("apply", *(arguments | changed).values())
    assert result.exit_code == code
    assert message in result.stderr


def test_a_hypernetwork_of_another_model_is_told(run, tiny_folder, tmp_path):
    network = Hypernetwork(NetworkConfig(num_heads=4), num_stacked=2, hidden=32)
    TrainedHypernetwork(network, "tiny", "fingerprint", num_steps=1).save(tmp_path)
    result = run("apply", tmp_path, tiny_folder, "bytes", tmp_path / "target")
    assert result.exit_code == 2
    assert "trained for the tokenizer of tiny" in result.stderr
    assert not (tmp_path / "target").exists()


def test_options_that_exclude_each_other(run):
    assert run("train", "x.yaml", "--overwrite", "--resume").exit_code == 2
    result = run("train", "x.yaml")
    assert result.exit_code == 2
    assert "expected a hypernetwork's file, or one that comes with tutelage" in result.stderr
