"""A tiny model in a folder, a text file, and the file of a short training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import parse
from orchestrator.hypernetwork.config import HypernetworkConfig
from orchestrator.hypernetwork.frozen import FrozenModel
from orchestrator.hypernetwork.network import Hypernetwork
from orchestrator.hypernetwork.train import new_network

NETWORK = {"num_layers": 1, "num_heads": 4}
SAMPLING = {"vocab_size": 640, "num_documents": 40, "num_negatives": 64}
TRAIN = {
    "max_steps": 4,
    "global_batch": 4,
    "micro_batch": 4,
    "learning_rate": 1.0e-2,
    "lr_schedule": "constant",
}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_model, fast_tokenizers) -> Path:
    """A Llama with untied random embeddings and the byte-level toy tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    fast = fast_tokenizers["bytelevel"]
    tiny_model("llama", len(fast)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory, toy_texts) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text[:200]}) + "\n" for text in toy_texts[:60]))
    return path


@pytest.fixture
def config(tiny_folder, text_file, tmp_path) -> Callable[..., HypernetworkConfig]:
    """A configuration with changed sections: ``config(train={"max_steps": 2})``."""

    def build(**changed: dict[str, Any]) -> HypernetworkConfig:
        sections: dict[str, Any] = {
            "model": {"init": str(tiny_folder), "device": "cpu"},
            "network": NETWORK,
            "sampling": SAMPLING,
            "data": {"train": [str(text_file)], "max_length": 64},
            "train": TRAIN,
        }
        merged = {name: value | changed.get(name, {}) for name, value in sections.items()}
        data = merged | {"output_dir": str(tmp_path / "run")}
        return parse(HypernetworkConfig, data, "test")

    return build


@pytest.fixture
def start(language_model, config) -> Callable[..., tuple[FrozenModel, Hypernetwork]]:
    """A frozen tiny model of some architecture and an untrained network for it."""

    def build(architecture="llama", tokenizer="bytelevel", network=None, **options):
        frozen = FrozenModel(language_model(architecture, tokenizer, **options))
        return frozen, new_network(config(network=network or {}), frozen)

    return build
