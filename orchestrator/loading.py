"""A model by its reference, ready to be evaluated."""

from pathlib import Path

import torch

from orchestrator.errors import ConfigError
from orchestrator.sources import model_path
from orchestrator.student.ngram_model import make_known
from teachers.backends.transformers import LanguageModel
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer


def load_model(
    source: ModelSource, name: str, device: str, start_token: str | None = None
) -> LanguageModel:
    """The model in evaluation mode with its tokenizer, which knows how long a text may be.

    Raises:
        ConfigError: there is no such device.
    """
    check_device(device)
    make_known(Path(source.path))
    tokenizer = Tokenizer.load(source, name, start_token)
    model = LanguageModel.load(source, tokenizer, device)
    longest = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    tokenizer.max_tokens = longest
    model.model.eval()
    return model


def check_device(device: str) -> None:
    """Refuse CUDA where there is none.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no CUDA device here; expected cpu")


def source_of(reference: str, dtype: str) -> ModelSource:
    """Where a folder, an ``asset:NAME`` or a hub id is loaded from.

    Raises:
        ConfigError: it looks like a path, but there is no such folder.
    """
    return ModelSource(model_path(reference), dtype=dtype)
