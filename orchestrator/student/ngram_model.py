"""Gives a byte student its n-gram embeddings, and writes what opens it elsewhere.

No architecture of transformers has them, so a saved model brings a modelling file and another
``model_type``: without ``trust_remote_code=True`` it is refused, never read without its n-grams.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from orchestrator.student import modeling_ngram_bytes
from orchestrator.student.embeddings.ngrams import SuffixTable
from orchestrator.student.embeddings.vocabulary_pair import VocabularyPair
from orchestrator.student.modeling_ngram_bytes import NUM_BYTES, SCALE, SIZES, NGramEmbedding
from orchestrator.student.vocabulary_rows import embedding_modules

MODULE = "modeling_ngram_bytes"

CLASSES = '''

from transformers import {config}, {model}  # noqa: E402


class NGramBytesConfig({config}):
    """The architecture's configuration under a name of its own."""

    model_type = "ngram_bytes"


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
    classes = CLASSES.format(config=config, model=architecture)
    (folder / f"{MODULE}.py").write_text(source + classes, encoding="utf-8")
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {
        "model_type": "ngram_bytes",
        "architectures": ["NGramBytesForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODULE}.NGramBytesConfig",
            "AutoModelForCausalLM": f"{MODULE}.NGramBytesForCausalLM",
        },
    }
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
