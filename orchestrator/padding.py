"""Rows of a model's embeddings that no token of its tokenizer has: found, and cut off.

Training likes row counts that are multiples of 64 or more; whoever loads the result has no use for
the rest. Ids stay what they are, since padding comes last.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from orchestrator.errors import ConfigError

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")

LOGITS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}
"""Relative to the largest logit: another number of rows may be summed in another order."""


@dataclass(frozen=True)
class RowCut:
    """Which tensors lose their last rows.

    Args:
        tensors: names of those that have a row for each id.
        before: rows so far.
        after: rows that are left, one for each id up to the tokenizer's last.
    """

    tensors: frozenset[str]
    before: int
    after: int

    @property
    def num_rows(self) -> int:
        """How many rows go, of each tensor."""
        return self.before - self.after

    def tensor(self, name: str, value: Tensor) -> Tensor:
        """The tensor without padded rows, if it has any."""
        return value[: self.after].clone() if name in self.tensors else value

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration with its number of rows, and that of its parts, corrected."""
        own = {"vocab_size": self.after} if config.get("vocab_size") == self.before else {}
        parts = {
            key: self.config(value)
            for key, value in config.items()
            if key.endswith("_config") and isinstance(value, dict)
        }
        return {**config, **parts, **own}


def find_padding(
    checkpoint: Path, tokenizer: PreTrainedTokenizerBase, shapes: Mapping[str, tuple[int, ...]]
) -> RowCut | None:
    """The rows beyond the tokenizer's last id; None if there are none.

    Args:
        checkpoint: a folder that ``from_pretrained`` opens.
        tokenizer: the checkpoint's.
        shapes: of the checkpoint's tensors.

    Raises:
        ConfigError: something else has a row for each id as well, or a special id is a padded row.
    """
    after = max(tokenizer.get_vocab().values()) + 1
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    before = _num_rows(config)
    if before is None or before <= after:
        return None
    _refuse_special(checkpoint, after)
    cut = RowCut(frozenset(_embedding_names(checkpoint) & shapes.keys()), before, after)
    others = [n for n, shape in shapes.items() if before in shape and n not in cut.tensors]
    if others or not all(shapes[name][0] == before for name in cut.tensors):
        raise ConfigError(
            f"{checkpoint}: {before - after} rows of its embeddings have no token, but "
            f"{', '.join(others) or 'they'} cannot be cut with them; expected only the "
            "embeddings and the head to have a row for each id: pass --keep-padding"
        )
    return cut


def check_logits(checkpoint: Path, folder: Path, ids: Tensor, cut: RowCut) -> None:
    """Compare what both folders say about a probe.

    Args:
        checkpoint: with padded rows.
        folder: without them, in any number format.
        ids: the probe, ``[1, token]``.
        cut: what was cut.

    Raises:
        ConfigError: the logits of the rows that are left differ.
    """
    after = _logits(folder, ids, None)
    before = _logits(checkpoint, ids, after.dtype)[..., : cut.after]
    name = str(after.dtype).removeprefix("torch.")
    limit = LOGITS_TOLERANCE.get(name, 1e-4) * float(before.abs().max())
    change = float((before.float() - after.float()).abs().max())
    if not change <= limit:
        raise ConfigError(
            f"{checkpoint}: without its padded rows the logits of a probe change by {change:.3g}; "
            "nothing was written: pass --keep-padding"
        )


@torch.no_grad()
def _logits(folder: Path, ids: Tensor, dtype: torch.dtype | None) -> Tensor:
    model = _load(folder, dtype or "auto")
    logits: Tensor = model(input_ids=ids).logits
    return logits


def _load(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.eval()
    return model


def _embedding_names(checkpoint: Path) -> set[str]:
    """Names of the tensors of the embeddings and the head."""
    model = _load(checkpoint, "auto")
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    prefixes = [name for name, module in model.named_modules() if any(module is e for e in ends)]
    return {name for name in model.state_dict() if name.rpartition(".")[0] in prefixes}


def _num_rows(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("vocab_size")
    return found if isinstance(found, int) else None


def _refuse_special(checkpoint: Path, after: int) -> None:
    """A special id beyond the tokenizer would point at nothing."""
    for file in ("config.json", "generation_config.json"):
        if not (checkpoint / file).is_file():
            continue
        settings = json.loads((checkpoint / file).read_text(encoding="utf-8"))
        for key in SPECIAL_IDS:
            ids = settings.get(key)
            for index in ids if isinstance(ids, list) else [ids]:
                if isinstance(index, int) and index >= after:
                    raise ConfigError(
                        f"{checkpoint}/{file}: {key} is {index}, which is no token of the "
                        f"tokenizer; expected at most {after - 1}: correct it, or pass "
                        "--keep-padding"
                    )
