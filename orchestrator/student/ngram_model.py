"""Gives a byte student its n-gram embeddings, and writes what opens it elsewhere.

No architecture of transformers has them, so a saved model brings a modelling file and another
``model_type``: without ``trust_remote_code=True`` it is refused, never read without its n-grams.
Here it is opened by our own code, and the folder's file is not run.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from orchestrator.errors import ConfigError
from orchestrator.student import modeling_ngram_bytes
from orchestrator.student.embeddings.ngrams import SuffixTable
from orchestrator.student.embeddings.vocabulary_pair import VocabularyPair
from orchestrator.student.modeling_ngram_bytes import NUM_BYTES, SCALE, SIZES, NGramEmbedding
from orchestrator.student.vocabulary_rows import embedding_modules

MODULE = "modeling_ngram_bytes"
MODELLING_FILE = f"{MODULE}.py"
MODEL_TYPE = "ngram_bytes_{}"
"""One for each architecture: what a process registered for one is never taken for another."""
ARCHITECTURE = "ngram_architecture"
"""Key of the configuration: the class of transformers that got n-gram embeddings."""

CLASSES = '''

from transformers import {config}, {model}  # noqa: E402


class NGramBytesConfig({config}):
    """The architecture's configuration under a name of its own."""

    model_type = "{model_type}"


class NGramBytesForCausalLM(NGramBytes, {model}):
    """The architecture with n-gram embeddings."""

    config_class = NGramBytesConfig
'''


def add_ngrams(
    model: PreTrainedModel,
    old: Float[Tensor, "source hidden"],
    pair: VocabularyPair,
    specials: Mapping[int, int],
) -> None:
    """Exchange the input embedding, in place, for one that also reads old tokens.

    Args:
        model: with the rows of the byte tokenizer.
        old: the input rows that it had before; they are kept, frozen.
        pair: the vocabularies.
        specials: new special token -> old one.
    """
    alone = [-1] * NUM_BYTES + [specials.get(i, -1) for i in range(NUM_BYTES, len(pair.target))]
    table = SuffixTable.of(pair.source, pair.encode_source, alone)
    read, head = embedding_modules(model)
    sizes = {
        "edges": len(table.keys),
        "nodes": len(table.tokens),
        "ids": len(alone),
        "old": len(old),
    }
    scale = float(getattr(read, "scalar_embed_scale", 1.0))
    width = read.weight.shape[1]
    made = NGramEmbedding(len(read.weight), width, sizes, scale, read.padding_idx).to(read.weight)
    for name, values in (("keys", table.keys), ("tokens", table.tokens), ("alone", table.alone)):
        getattr(made, f"ngram_{name}").copy_(torch.from_numpy(values))
    made.ngram_rows.copy_(old)
    made.weight = nn.Parameter(read.weight.detach(), requires_grad=read.weight.requires_grad)
    if head.weight is read.weight:
        head.weight = made.weight
    model.set_input_embeddings(made)
    config = model.config.get_text_config()
    setattr(config, SIZES, sizes)
    setattr(config, SCALE, scale)


def has_ngrams(model: PreTrainedModel) -> bool:
    """True if its input embedding reads n-grams."""
    return isinstance(model.get_input_embeddings(), NGramEmbedding)


def write_modelling_file(model: PreTrainedModel, folder: Path) -> None:
    """Put the modelling file beside saved weights, and name it in ``config.json``."""
    if not has_ngrams(model):
        return
    config, architecture = type(model.config).__name__, type(model).__name__
    source = inspect.getsource(modeling_ngram_bytes)
    model_type = _model_type(architecture)
    classes = CLASSES.format(config=config, model=architecture, model_type=model_type)
    (folder / MODELLING_FILE).write_text(source + classes, encoding="utf-8")
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {
        "model_type": model_type,
        "architectures": ["NGramBytesForCausalLM"],
        ARCHITECTURE: architecture,
        "auto_map": {
            "AutoConfig": f"{MODULE}.NGramBytesConfig",
            "AutoModelForCausalLM": f"{MODULE}.NGramBytesForCausalLM",
        },
    }
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def is_buffer(name: str) -> bool:
    """True for the tensors of a saved model that are its n-grams: no row of a token is in them.

    >>> is_buffer("model.embed_tokens.ngram_rows"), is_buffer("model.embed_tokens.weight")
    (True, False)
    """
    return name.rpartition(".")[2].startswith("ngram_")


def is_ngram_folder(folder: Path) -> bool:
    """True for the folder of a saved model with n-gram embeddings."""
    return str(_settings(folder).get("model_type")).startswith(_model_type(""))


def make_known(folder: Path) -> None:
    """Let ``from_pretrained`` of this process open the folder, if its model has n-grams.

    The classes are made from our own code; the folder's modelling file is not run.

    Raises:
        ConfigError: the folder does not say which architecture it holds.
    """
    if not is_ngram_folder(folder):
        return
    name = _settings(folder).get(ARCHITECTURE)
    base: Any = getattr(transformers, name, None) if isinstance(name, str) else None
    if not _is_model(base):
        raise ConfigError(
            f"{folder}/config.json: {ARCHITECTURE} is {json.dumps(name)}; expected a class of "
            "transformers, such as LlamaForCausalLM: copy the folder again"
        )
    model_type = _model_type(base.__name__)
    config = type("NGramBytesConfig", (base.config_class,), {"model_type": model_type})
    parts = modeling_ngram_bytes.NGramBytes, base
    model = type("NGramBytesForCausalLM", parts, {"config_class": config})
    AutoConfig.register(model_type, config, exist_ok=True)
    AutoModelForCausalLM.register(config, model, exist_ok=True)


def _model_type(architecture: str) -> str:
    return MODEL_TYPE.format(architecture.lower())


def _is_model(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, PreTrainedModel)


def _settings(folder: Path) -> dict[str, Any]:
    """What its config.json holds; nothing where there is none that can be read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
