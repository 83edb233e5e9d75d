"""Whether a run may be continued with the run file it is now given.

A resumed run must be the run that was started. Keys that change its mathematics are refused;
those that only say how it is carried out may change.
"""

import json
import logging
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError

log = logging.getLogger(__name__)

FREE = (
    "output_dir",
    "checks.*",
    "compare.ce_only.learning_rates_tried",
    "faults.*",
    "resources.*",
    "student.resources.cpus",
    "student.resources.custom.*",
    "student.resources.labels.*",
    "teachers.*.resources.cpus",
    "teachers.*.resources.custom.*",
    "teachers.*.resources.labels.*",
    "teachers.*.model_parity",
    "teachers.*.parity_tolerance",
    "teachers.*.record",
    "train.gradient_share_steps",
    "train.keep_best",
    "train.learning_rates_tried",
    "train.logging_steps",
    "train.max_steps",
    "train.prefetch",
    "train.prefetch_bytes",
    "train.save_steps",
    "train.save_total_limit",
    "train.timeout_s",
)
"""May change: the numbers stay the same."""

REGROUPING = (
    "deepspeed.zero_optimization*",
    "student.device",
    "student.gradient_checkpointing",
    "student.num_ranks",
    "student.resources.gpus",
    "student.threads",
    "teachers.*.device",
    "teachers.*.resources.gpus",
    "teachers.*.resources.replicas",
    "teachers.*.threads",
    "teachers.*.token_budget",
    "train.micro_batch",
)
"""May change: sums are taken in another order, so the numbers agree only to rounding."""


def check_continuation(before: RunConfig, now: RunConfig) -> None:
    """Refuse a run file that would make it another run; warn of what moves the last digits.

    Raises:
        ConfigError: lists every key that must not change, with its old and new value.
    """
    changes = changed_keys(before, now)
    refused = {k: text for k, text in changes.items() if not _matches(k, (*FREE, *REGROUPING))}
    if refused:
        lines = [f"  {key}: {text}" for key, text in refused.items()]
        raise ConfigError(
            "--resume continues the run that was started, but these keys differ:\n"
            + "\n".join(lines)
            + "\nSet them back, or start another run in another output_dir"
        )
    for key, text in changes.items():
        if _matches(key, REGROUPING):
            log.warning("%s: %s; the numbers agree with the former ones to rounding", key, text)
    if "train.max_steps" in changes and now.train.lr_schedule != "constant":
        log.warning(
            "train.max_steps: %s; the learning rate follows the %s schedule of the new length",
            changes["train.max_steps"],
            now.train.lr_schedule,
        )


def changed_keys(before: RunConfig, now: RunConfig) -> dict[str, str]:
    """``old -> new`` by dotted key; entries of lists that have names go by their names."""
    old, new = (dict(_leaves("", c.model_dump(mode="json"))) for c in (before, now))
    keys = sorted(old.keys() | new.keys())
    return {k: f"{_text(old, k)} -> {_text(new, k)}" for k in keys if _differ(old, new, k)}


def _differ(old: dict[str, Any], new: dict[str, Any], key: str) -> bool:
    return (key in old) != (key in new) or old.get(key) != new.get(key)


def _text(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and value and all(_has_name(entry) for entry in value):
        yield f"{path}.order", [entry["name"] for entry in value]
        value = {entry["name"]: entry for entry in value}
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, entry)
    else:
        yield path, value


def _has_name(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
