"""A student's tokenizer beside its weights, opened by plain ``AutoTokenizer``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedModel

from orchestrator.student.byte_tokenizer import byte_tokenizer
from orchestrator.student.merged_tokenizer import merged_tokenizer
from orchestrator.student.tokenizer_folder import OVERRULED, save_tokenizer
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

TEXT = "A nai\u0308ve cafe\u0301 of 1234 words,\n\t<|endoftext|> and so on"


@pytest.fixture
def saved(
    tiny_model: Callable[..., PreTrainedModel], tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> Callable[[str, str], tuple[Any, Path]]:
    """A tokenizer, and the folder of a model with it."""

    def save(architecture: str, target: str) -> tuple[Any, Path]:
        source = tokenizers["bytelevel"]
        if target == "bytes":
            fast = byte_tokenizer(source)
        else:
            fast = merged_tokenizer(source, tokenizers[target])
        tiny_model(architecture, len(fast)).save_pretrained(tmp_path)
        save_tokenizer(fast, tmp_path)
        return fast, tmp_path

    return save


@pytest.mark.parametrize("target", ["bytes", "sentencepiece"])
def test_an_architecture_with_a_tokenizer_of_its_own_lets_go(
    saved: Callable[..., tuple[Any, Path]],
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Qwen 2's own class would compose characters and cut words its own way."""
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert "qwen2" in OVERRULED
    fast, folder = saved("qwen2", target)
    for options in ({}, {"trust_remote_code": True}):
        opened = AutoTokenizer.from_pretrained(folder, **options)
        assert opened(TEXT)["input_ids"] == fast(TEXT)["input_ids"]
        assert opened.eos_token == fast.eos_token
    ours = Tokenizer.load(ModelSource(str(folder)), "again")
    assert ours.cutting == Tokenizer(fast, "student").cutting


def test_others_need_no_code(saved: Callable[..., tuple[Any, Path]]):
    fast, folder = saved("llama", "bytes")
    assert not list(folder.glob("*.py"))
    assert AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] == fast(TEXT)["input_ids"]
