"""A folder of peft adapters as a folder of whole weights.

Runs with ``student.lora`` save their models merged already. This is for adapters that something
else has written: they name the model that they belong to.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.errors import ConfigError
from orchestrator.sources import model_path

ADAPTER_CONFIG = "adapter_config.json"

TOKENIZER_CONFIG = "tokenizer_config.json"


@contextmanager
def merged_folder(checkpoint: Path) -> Iterator[Path]:
    """The folder itself, or, if it holds adapters alone, one with them merged while it is open.

    Raises:
        ConfigError: the adapters name no model, or one that is not there.
    """
    if not (checkpoint / ADAPTER_CONFIG).is_file() or (checkpoint / "config.json").is_file():
        yield checkpoint
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_merged(checkpoint, folder)
        yield folder


def _write_merged(checkpoint: Path, folder: Path) -> None:
    """The base model with the adapters' products added, and the tokenizer."""
    from peft import PeftModel

    settings = json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ConfigError(
            f"{checkpoint}/{ADAPTER_CONFIG} names no base_model_name_or_path; expected the folder "
            "or hub id of the model that the adapters belong to"
        )
    path = model_path(base)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    adapted: Any = PeftModel.from_pretrained(model, str(checkpoint))
    adapted.merge_and_unload(safe_merge=True).save_pretrained(folder)
    own = (checkpoint / TOKENIZER_CONFIG).is_file()
    AutoTokenizer.from_pretrained(checkpoint if own else path).save_pretrained(folder)
