"""A model's config.json without importing the model's architecture, which takes seconds.

``AutoTokenizer`` looks only at the names in it where the folder says itself which tokenizer it
holds. Everywhere else the architecture's own class decides.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")

MALFORMED = (
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    UnicodeDecodeError,
    json.JSONDecodeError,
)
"""What transformers raises on files that hold something else than it looks for, and one more."""


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Reading a model's JSON files; ``path`` is its folder or hub id.

    Raises:
        ValueError: a file holds something else than expected.
    """
    try:
        yield
    except Exception as error:
        # tokenizers raises plain Exception
        if type(error) is not Exception and not _is_malformed(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{_damaged(Path(path))} ({reason}); expected what save_pretrained writes: copy or "
            "download the files again"
        ) from error


def _is_malformed(error: Exception) -> bool:
    from huggingface_hub.errors import StrictDataclassError  # slow import, rarely needed

    return isinstance(error, (*MALFORMED, StrictDataclassError))


def _damaged(folder: Path) -> str:
    """Which files cannot be right, as far as one can tell."""
    present = [name for name in FILES if (folder / name).is_file()]
    if names := [name for name in present if not _read(folder / name)]:
        return f"{', '.join(names)} should hold a mapping in JSON, not an empty one"
    return f"{', '.join(present) or 'the files'} hold something else than is looked for there"


def check_ids(config: Mapping[str, Any]) -> None:
    """Check the numbers of a language model's configuration that are read here.

    Raises:
        ValueError: one is no number.
    """
    rows = config.get("vocab_size", 1)
    if type(rows) is not int or rows < 1:
        raise ValueError(
            f"vocab_size in config.json is {_shown(rows)}; expected a whole number above 0"
        )
    for name in SPECIAL_IDS:
        value = config.get(name)
        values = value if isinstance(value, list) else [value]
        if any(index is not None and type(index) is not int for index in values):
            raise ValueError(
                f"{name} in config.json is {_shown(value)}; expected a token's id, a list of ids, "
                "or null"
            )


def _shown(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)[:60]


def names_only_config(folder: str) -> "PretrainedConfig | None":
    """The configuration of a model's folder, as a plain one that ``AutoTokenizer`` can take.

    None for a hub id, and where the architecture's own class is needed.

    Raises:
        ValueError: an id in the configuration is no number.
    """
    tokenizer, model = (_read(Path(folder) / f"{name}config.json") for name in ("tokenizer_", ""))
    check_ids(model)
    if "tokenizer_class" not in tokenizer or "auto_map" in tokenizer or "model_type" not in model:
        return None
    from transformers import PretrainedConfig  # slow import

    return PretrainedConfig.from_dict({**model, "_name_or_path": folder})


def _read(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty if there is none, so that the usual way tells what is wrong."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
