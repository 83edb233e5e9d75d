"""DeepSpeed's own options: read, their keys checked, passed through.

DeepSpeed itself ignores a top-level key that it does not know, so a misspelt ``zero_optimization``
would silently be no ZeRO at all; nor does it know many sections' keys when it reads them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.deepspeed_keys import KEYS, SECTIONS, ZERO_KEYS
from orchestrator.config.messages import as_written, unknown
from orchestrator.config.problems import Problem, raise_if_any

OWNED_KEYS = {
    "train_batch_size": "use train.global_batch",
    "train_micro_batch_size_per_gpu": "use train.micro_batch",
    "gradient_accumulation_steps": "it follows from train.global_batch, train.micro_batch and "
    "student.num_ranks",
    "gradient_clipping": "use train.max_grad_norm",
    "bf16": "use student.dtype",
    "bfloat16": "use student.dtype",
    "fp16": "use student.dtype",
    "optimizer": "AdamW is built from train.learning_rate, train.betas and train.weight_decay",
    "scheduler": "use train.lr_schedule and train.warmup_steps",
    "data_parallel_size": "use student.num_ranks",
    "sequence_parallel_size": "a rank reads whole documents; use student.num_ranks",
}
"""Refused keys and what to write instead."""


ZERO_STAGES = (0, 1, 2, 3)


def zero_stage(options: Mapping[str, Any]) -> int:
    """The stage of ZeRO in options that were checked.

    >>> zero_stage({"zero_optimization": {"stage": 3}}), zero_stage({})
    (3, 0)
    """
    return int(options.get("zero_optimization", {}).get("stage", 0))


def check_deepspeed(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse keys that DeepSpeed does not know, at the top and in its sections.

    Raises:
        Problems: a key is unknown, a section is no mapping, or ZeRO has another stage.
    """
    zero = _zero(options.get("zero_optimization", {}))
    raise_if_any([*_unknown(options, KEYS), *zero, *_sections(options)])
    return options


def _unknown(options: Mapping[str, Any], known: tuple[str, ...], *above: str) -> Iterator[Problem]:
    for key in options:
        if key not in known:
            yield Problem((*above, key), unknown("key", key, known))


def _sections(options: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong in all sections but ZeRO's own; one that is null is left to DeepSpeed."""
    for path, known in SECTIONS.items():
        *above, last = path.split(".")
        holder: object = options
        for step in above:
            holder = holder.get(step) if isinstance(holder, Mapping) else None
        section = holder.get(last) if isinstance(holder, Mapping) else None
        if isinstance(section, Mapping):
            yield from _unknown(section, known, *above, last)
        elif section is not None:
            text = f"{as_written(section)} is not allowed; expected a mapping"
            yield Problem((*above, last), text)


def _zero(options: object) -> Iterator[Problem]:
    place = "zero_optimization"
    if not isinstance(options, Mapping):
        expected = "expected a mapping, such as {stage: 2}"
        yield Problem((place,), f"{as_written(options)} is not allowed; {expected}")
        return
    yield from _unknown(options, ZERO_KEYS, place)
    stage = options.get("stage", 0)
    if type(stage) is not int or stage not in ZERO_STAGES:
        yield Problem(
            (place, "stage"), f"{as_written(stage)} is not allowed; expected 0, 1, 2 or 3"
        )


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
