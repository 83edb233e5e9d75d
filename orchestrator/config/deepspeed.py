"""DeepSpeed's own options: read, checked for the keys that this run file owns, passed through."""

import json
from pathlib import Path
from typing import Any

OWNED_KEYS = {
    "train_batch_size": "use train.global_batch",
    "train_micro_batch_size_per_gpu": "use train.micro_batch",
    "gradient_accumulation_steps": "it follows from train.global_batch, train.micro_batch and "
    "student.num_ranks",
    "gradient_clipping": "use train.max_grad_norm",
    "bf16": "use student.dtype",
    "fp16": "use student.dtype",
    "optimizer": "AdamW is built from train.learning_rate, train.betas and train.weight_decay",
    "scheduler": "use train.lr_schedule and train.warmup_steps",
}
"""Refused keys and what to write instead."""


def read_deepspeed(source: object) -> object:
    """The options, from a mapping as it is or from the JSON file that a path names.

    Raises:
        ValueError: the file is missing, or is not a mapping in JSON.
    """
    if not isinstance(source, str | Path):
        return source
    try:
        options: Any = json.loads(
            Path(source).read_text(encoding="utf-8"), object_pairs_hook=_each_key_once
        )
    except OSError as error:
        raise ValueError(
            f'cannot read "{source}" ({error.strerror}); expected a mapping or a JSON file'
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f'"{source}" is not JSON ({error}); expected a mapping in JSON') from error
    if not isinstance(options, dict):
        raise ValueError(f'"{source}" holds no mapping; expected DeepSpeed\'s options by name')
    return options


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'key "{key}" appears twice')
        found[key] = value
    return found
