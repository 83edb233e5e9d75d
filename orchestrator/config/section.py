"""The base of every part of the run file, and the checks that several parts share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Strict

T = TypeVar("T")


@dataclass(frozen=True)
class Expected:
    """Annotation that says in words which values a field takes, for errors and the reference."""

    text: str


@dataclass(frozen=True)
class OtherKeys:
    """Annotation of a field that is no key itself but stands for further keys of its mapping."""

    text: str


class Section(BaseModel):
    """A mapping of the run file: unknown keys refused, no conversion of types, never changed."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        strict=True,
        use_attribute_docstrings=True,
    )


def refuse_keys(refused: Mapping[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Refuse keys of a passed-through mapping that are set elsewhere; key -> what to use."""

    def check(options: dict[str, Any]) -> dict[str, Any]:
        if found := sorted(options.keys() & refused.keys()):
            hints = (f'"{key}" is not taken here ({refused[key]})' for key in found)
            raise ValueError("; ".join(hints))
        return options

    return check


def expand_home(path: Path) -> Path:
    """``~`` stands for the user's home folder."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f'"{path}": {error}') from error


def refuse_non_finite(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse NaN and infinity, wherever they stand in a passed-through mapping."""
    open_parts: list[object] = [options]
    while open_parts:
        part = open_parts.pop()
        if isinstance(part, Mapping):
            open_parts.extend(part.values())
        elif isinstance(part, list | tuple):
            open_parts.extend(part)
        elif isinstance(part, float) and not math.isfinite(part):
            raise ValueError(f"it holds the number {part}; expected finite numbers")
    return options


DEVICE_MAP = "device_map"

OWNED_MODEL_OPTIONS = {
    "dtype": "use the key dtype beside model_options",
    "torch_dtype": "use the key dtype beside model_options",
    DEVICE_MAP: "use the key device beside model_options",
    "revision": "use the key revision beside model_options",
    "trust_remote_code": "use the key trust_remote_code of a teacher; a student has none",
    "token": "secrets stay out of run files: set HF_TOKEN in the environment",
    "use_auth_token": "secrets stay out of run files: set HF_TOKEN in the environment",
    "tp_plan": "tensors are split among processes, but a model here has one: see docs/cluster.md",
    "tp_size": "tensors are split among processes, but a model here has one: see docs/cluster.md",
}

Items = Annotated[tuple[T, ...], Strict(False)]
"""A YAML list, kept as a tuple."""

ModelSource = Annotated[str, MinLen(1), Expected("a folder, a hub id or asset:NAME")]

ModelOptions = Annotated[
    dict[str, Any],
    AfterValidator(refuse_keys(OWNED_MODEL_OPTIONS)),
    AfterValidator(refuse_non_finite),
]

TeacherOptions = Annotated[
    dict[str, Any],
    AfterValidator(refuse_keys({k: v for k, v in OWNED_MODEL_OPTIONS.items() if k != DEVICE_MAP})),
    AfterValidator(refuse_non_finite),
]
"""A teacher's; its model may lie on several GPUs."""

Device = Literal["auto", "cpu", "cuda"]

Dtype = Literal["float32", "bfloat16"]
