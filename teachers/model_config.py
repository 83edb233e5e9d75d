"""A model's config.json without importing the model's architecture, which takes seconds.

``AutoTokenizer`` looks only at the names in it where the folder says itself which tokenizer it
holds. Everywhere else the architecture's own class decides.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig


def names_only_config(folder: str) -> PretrainedConfig | None:
    """The configuration of a model's folder, as a plain one that ``AutoTokenizer`` can take.

    None for a hub id, and where the architecture's own class is needed.
    """
    tokenizer, model = (_read(Path(folder) / f"{name}config.json") for name in ("tokenizer_", ""))
    if "tokenizer_class" not in tokenizer or "auto_map" in tokenizer or "model_type" not in model:
        return None
    return PretrainedConfig.from_dict({**model, "_name_or_path": folder})


def _read(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty if there is none, so that the usual way tells what is wrong."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
