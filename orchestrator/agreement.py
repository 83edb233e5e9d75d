"""Whether a tokenizer and a model's configuration belong together, before any weight is loaded.

What cannot work is an error: ids without a row in the embedding. What only looks as if the
tokenizer came from another model is a warning, since many published models are a little untidy.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teachers.model_config import SPECIAL_IDS, check_ids, explained
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

MOST_PADDED_ROWS = 2048
"""Published models pad their embedding by up to some hundred rows beyond the tokenizer."""

WIDTHS = ("hidden_size", "n_embd", "d_model")
"""What architectures call the width of their hidden states."""

PARTS = {"text_config", "decoder", "generator"}
"""Keys of a configuration that has another one for the language model."""


@dataclass
class Agreement:
    """Sentences on how model and tokenizer disagree, and two sizes of the model.

    ``max_tokens`` is the longest document it reads, ``hidden_size`` the width of its hidden states.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    max_tokens: int | None = None
    hidden_size: int | None = None


def compare(source: ModelSource, tokenizer: Tokenizer) -> Agreement:
    """Read the model's configuration and lay it beside the tokenizer.

    Raises:
        OSError: there is no configuration, or it cannot be read.
        ValueError: the configuration is of an unknown kind, damaged, or not a language model's.
    """
    with explained(source.path):
        config = _text_config(source)
    agreement = compare_config(config, tokenizer)
    agreement.warnings += template_doubts(tokenizer)
    return agreement


def template_doubts(tokenizer: Tokenizer) -> Iterator[str]:
    """What is wrong with its chat template, which matters for chats only."""
    if (flaw := tokenizer.chat.flaw) is not None:
        yield (
            f"its chat template cannot be used ({flaw}), so chats will be refused; repair it, or "
            "set the key template: plain"
        )


def _text_config(source: ModelSource) -> Mapping[str, Any]:
    """What config.json says of the language model.

    A folder's is read as it is, for ``transformers`` takes a second to import. Only one of several
    parts is read by its own class: importing that takes seconds.
    """
    if _is_of_one_part(plain := _plain_config(Path(source.path))):
        return plain
    from transformers import AutoConfig, PretrainedConfig

    found: dict[str, Any] = PretrainedConfig.get_config_dict(source.path, revision=source.revision)[
        0
    ]
    if _is_of_one_part(found):
        return found
    config = AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    whole: dict[str, Any] = config.get_text_config().to_dict()
    return whole


def _plain_config(folder: Path) -> Mapping[str, Any]:
    """Empty for a hub id, and where ``transformers`` would read another file or raise an error."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "configuration_files" not in found else {}


def _is_of_one_part(config: Mapping[str, Any]) -> bool:
    return "vocab_size" in config and not PARTS & config.keys()


def compare_config(config: Mapping[str, Any], tokenizer: Tokenizer) -> Agreement:
    """Lay a language model's configuration beside a tokenizer.

    Raises:
        ValueError: it lacks the number of rows, or an id is no number.
    """
    if "vocab_size" not in config:
        raise ValueError(
            f"config.json (model_type {config.get('model_type')}) has no vocab_size; expected the "
            "configuration of a language model"
        )
    check_ids(config)
    num_rows, num_ids = config["vocab_size"], len(tokenizer.vocabulary)
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    width = next((config[name] for name in WIDTHS if name in config), None)
    agreement = Agreement(
        max_tokens=longest if isinstance(longest, int) else None,
        hidden_size=width if isinstance(width, int) else None,
    )
    if num_rows < num_ids:
        agreement.errors.append(
            f"the tokenizer has {num_ids} ids, but the model only {num_rows} rows (vocab_size in "
            "config.json); tokenizer and model do not belong together"
        )
    elif num_rows - num_ids > MOST_PADDED_ROWS:
        agreement.warnings.append(
            f"the model has {num_rows} rows, but the tokenizer only {num_ids} ids; is it the "
            "tokenizer of this model?"
        )
    for name in SPECIAL_IDS:
        for index in _ids(config.get(name)):
            _check_special(agreement, name, index, num_rows, tokenizer)
    return agreement


def _ids(value: int | list[int] | None) -> Iterator[int]:
    """One id, several, or none; -1 is an old way to write none."""
    values = value if isinstance(value, list) else [value]
    yield from (index for index in values if index is not None and index != -1)


def _check_special(
    agreement: Agreement, name: str, index: int, num_rows: int, tokenizer: Tokenizer
) -> None:
    token_bytes = tokenizer.vocabulary.token_bytes
    if not 0 <= index < num_rows:
        agreement.errors.append(
            f"{name} in config.json is {index}, outside the model's {num_rows} rows"
        )
    elif index >= len(token_bytes):
        agreement.warnings.append(
            f"{name} in config.json is {index}, but the tokenizer has only {len(token_bytes)} ids"
        )
    elif (content := token_bytes[index]) is not None:
        text = content.decode(errors="replace")
        agreement.warnings.append(
            f'{name} in config.json is {index}, which is the ordinary token "{text}" in the '
            "tokenizer; is it the tokenizer of this model?"
        )
