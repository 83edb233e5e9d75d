"""Tokenizers load the same without their model's architecture."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Gemma3TextConfig, GPT2Config, LlamaConfig, PretrainedConfig

from teachers.model_config import names_only_config
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

CONFIGS = {"llama": LlamaConfig, "gpt2": GPT2Config, "gemma3_text": Gemma3TextConfig}
CASES = [(kind, family) for kind in CONFIGS for family in ("bytelevel", "sentencepiece")]


def save(folder: Path, kind: str, fast: object) -> None:
    CONFIGS[kind](vocab_size=len(fast)).save_pretrained(folder)
    fast.save_pretrained(folder)


@pytest.mark.parametrize(("kind", "family"), CASES)
@pytest.mark.parametrize("declared", [None, "PreTrainedTokenizerFast", "LlamaTokenizerFast"])
def test_the_same_tokenizer(fast_tokenizers, tmp_path, kind, family, declared):
    save(tmp_path, kind, fast_tokenizers[family])
    if declared is not None:
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": declared}))
    config = names_only_config(str(tmp_path))
    assert type(config) is PretrainedConfig
    quick = AutoTokenizer.from_pretrained(tmp_path, config=config)
    usual = AutoTokenizer.from_pretrained(tmp_path)
    assert type(quick) is type(usual)
    assert quick.backend_tokenizer.to_str() == usual.backend_tokenizer.to_str()
    assert quick.special_tokens_map == usual.special_tokens_map


def test_only_where_the_folder_names_its_tokenizer(fast_tokenizers, tmp_path):
    save(tmp_path, "llama", fast_tokenizers["bytelevel"])
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for changed in (
        {key: value for key, value in settings.items() if key != "tokenizer_class"},
        settings | {"auto_map": {"AutoTokenizer": ["a.B", None]}},
        [],
    ):
        path.write_text(json.dumps(changed))
        assert names_only_config(str(tmp_path)) is None
    path.write_text("{")
    assert names_only_config(str(tmp_path)) is None
    assert names_only_config("org/model") is None


def test_the_architecture_is_not_imported(fast_tokenizers, tmp_path):
    save(tmp_path, "llama", fast_tokenizers["bytelevel"])
    code = (
        "import sys\n"
        "from teachers.source import ModelSource\n"
        "from teachers.tokenizer import Tokenizer\n"
        "Tokenizer.load(ModelSource(sys.argv[1]), 'x')\n"
        "print('transformers.models.llama.configuration_llama' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def with_key(folder: Path, file: str, **keys: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


DAMAGE = {
    "empty tokenizer": lambda f: (f / "tokenizer.json").write_text("{}"),
    "list for a tokenizer": lambda f: (f / "tokenizer.json").write_text("[]"),
    "tokenizer cut off": lambda f: (f / "tokenizer.json").write_text('{"version'),
    "list of settings": lambda f: (f / "tokenizer_config.json").write_text("[]"),
    "list for a configuration": lambda f: (f / "config.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(fast_tokenizers, tmp_path, damage):
    save(tmp_path, "llama", fast_tokenizers["bytelevel"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    DAMAGE[damage](tmp_path)
    [changed] = [path.name for path, content in before.items() if path.read_bytes() != content]
    with pytest.raises(ValueError, match=rf"^{changed} should hold a mapping in JSON.*again$"):
        Tokenizer.load(ModelSource(str(tmp_path)), "t")


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        ("config.json", {"vocab_size": "abc"}, 'vocab_size in config.json is "abc"; expected a'),
        ("config.json", {"vocab_size": True}, "vocab_size in config.json is true; expected a"),
        ("config.json", {"eos_token_id": "abc"}, 'eos_token_id in config.json is "abc"; expected'),
        ("config.json", {"pad_token_id": [0, 1.5]}, r"pad_token_id .* is \[0, 1.5\]; expected"),
        ("tokenizer_config.json", {"pad_token": 3}, r"Special token pad_token.*; expected what"),
        ("tokenizer.json", {"model": 3}, "tokenizer.json, .* hold something else than is looked"),
    ],
)
def test_a_wrong_value_is_named(fast_tokenizers, tmp_path, file, keys, message):
    save(tmp_path, "llama", fast_tokenizers["bytelevel"])
    with_key(tmp_path, file, **keys)
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(ModelSource(str(tmp_path)), "t")


def test_other_errors_are_not_explained_away(fast_tokenizers, tmp_path, monkeypatch):
    save(tmp_path, "llama", fast_tokenizers["bytelevel"])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        Tokenizer.load(ModelSource(str(tmp_path)), "t")
