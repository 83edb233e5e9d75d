"""A student's tokenizer beside its weights, such that ``AutoTokenizer`` opens it as it was saved.

For some architectures (Qwen 2 among them) ``AutoTokenizer`` takes the class of the architecture's
own tokenizer, whatever class the folder names. Such a class keeps the vocabulary and puts its own
normaliser and borders of words around it: another tokenizer under the same ids. It lets go where
``tokenizer_config.json`` names a class that comes with the folder, and then takes the plain one
that reads ``tokenizer.json``. With ``trust_remote_code=True`` it takes the named one, which is the
plain one too.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.models.auto import tokenization_auto

MODULE = "tokenization_as_saved"
CLASS = "TokenizerAsSaved"
SOURCE = f'''"""The tokenizer of tokenizer.json, as it is."""

from transformers import PreTrainedTokenizerFast


class {CLASS}(PreTrainedTokenizerFast):
    """Nothing is added."""
'''
OVERRULED: frozenset[str] = frozenset(
    getattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())
)
"""Architectures (``model_type``) whose folders' own word does not count."""


def save_tokenizer(fast: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a tokenizer into the folder of a model that is saved already."""
    fast.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if type(fast) is not PreTrainedTokenizerFast or config["model_type"] not in OVERRULED:
        return
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["auto_map"] = {"AutoTokenizer": [None, f"{MODULE}.{CLASS}"]}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
