"""One entry of the list ``teachers`` of the run file: a frozen model and its methods."""

import re
from collections import Counter
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import AfterValidator, Field, field_validator, model_validator

from orchestrator.config.kind_keys import kind_problems
from orchestrator.config.method import MethodConfig
from orchestrator.config.mixture import Weight
from orchestrator.config.problems import raise_if_any
from orchestrator.config.projection import ProjectionConfig
from orchestrator.config.refresh import RefreshConfig
from orchestrator.config.resources import TeacherResources, check_device, device_map_problems
from orchestrator.config.section import (
    Device,
    Dtype,
    Expected,
    Items,
    ModelSource,
    Section,
    TeacherOptions,
)
from orchestrator.config.server import ServerConfig
from orchestrator.config.teacher_kind import unserved

NAME_RULE = 'letters, digits, _ and -, and not "ce" or "student"'


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in ("ce", "student"):
        raise ValueError(f'"{name}" is not a name; expected {NAME_RULE}')
    return name


class TeacherConfig(Section):
    """One teacher: a frozen model and the methods that carry its knowledge."""

    name: Annotated[str, AfterValidator(_check_name), Expected(NAME_RULE)]
    """What the teacher is called in overrides, metrics and tables."""
    kind: Literal["hf", "self", "openai", "cache"] = "hf"
    """Where the teacher comes from: hf is a transformers model on this cluster, self the student's
    own ``init`` with its original tokenizer and all of its layers, openai a model behind a server
    that tells the log-probabilities of a prompt, cache a folder of signals."""
    model: ModelSource | None = None
    """The frozen model: a folder, a hub id or asset:NAME. Required, but for kind self, which has
    none: its model is ``student.init``. With kind openai the name that the server knows it by;
    with kind cache it may be left out, or is the model whose signals the folder must hold."""
    server: ServerConfig | None = None
    """Only with kind openai: where the server is and how it is asked. docs/servers.md."""
    tokenizer: ModelSource | None = None
    """Only with kind openai: the tokenizer of the served model, a folder, a hub id or asset:NAME;
    the server gets token ids, never text."""
    model_parity: ModelSource | None = None
    """Only with kinds openai and cache: the same weights (a folder, a hub id or asset:NAME), or for
    a server a recorded sample of what they say (a .safetensors file). What the teacher says of a
    few documents is compared with it before step 0."""
    path: str | None = None
    """Only with kind cache: the folder of signals that tutelage capture or ``record`` wrote.
    docs/signal_cache.md explains it."""
    parity_tolerance: float | None = Field(None, gt=0)
    """Only with kind cache and ``model_parity``: largest difference, relative for numbers above 1;
    null is 1e-4 in float32 and 0.05 in bfloat16."""
    record: str | None = None
    """Not with kind cache: a folder into which the run writes what the teacher says as it goes;
    after one epoch it is a cache."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null is the hub's default branch."""
    share_weights: bool = False
    """Only with kind self and ``student.lora``: the teacher runs inside the student's process, on
    the same weights with the adapters off and the original embeddings kept beside."""
    refresh: RefreshConfig | None = None
    """Only with kind self: the teacher is a running mean of the student's weights, renewed every
    few steps; null leaves it as the original is."""
    trust_remote_code: bool = False
    """Run code that comes with the model; only with ``revision``, so that it cannot change."""
    weight: Weight = 1.0
    """Factor of all of this teacher's losses; a mapping changes it from start to end over steps."""
    dtype: Dtype = "float32"
    """Number format of weights and arithmetic."""
    device: Device = "auto"
    """Where the teacher runs; auto is CUDA where there is one, else the CPU."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the teacher; null is 1, since spinning threads slow every process down."""
    token_budget: int = Field(4096, ge=1)
    """Padded tokens in one forward pass of the teacher, at most (one document at least)."""
    start_token: str | None = None
    """Special token put before each document; null is what the model's tokenizer does."""
    template: Literal["plain"] | None = None
    """How chats are written; null is the tokenizer's own template, or plain if it has none."""
    packing: bool = False
    """Several documents share a row of a batch, without seeing each other: less padding."""
    resources: TeacherResources = TeacherResources()
    """What Ray sets aside for the teacher."""
    model_options: Annotated[TeacherOptions, Expected("a mapping")] = Field(default_factory=dict)
    """Passed to ``from_pretrained`` as it is, such as ``attn_implementation``."""
    projection: ProjectionConfig = ProjectionConfig()
    """How W is built for the methods that read it."""
    methods: Annotated[Items[MethodConfig], MinLen(1)]
    """The methods fed by this teacher, each name once; one forward pass serves them all."""

    @model_validator(mode="before")
    @classmethod
    def _kind_serves(cls, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        raise_if_any(unserved(entry))
        runs_here = entry.get("kind") not in ("openai", "cache")
        if runs_here or entry.get("device", "auto") != "auto":
            return entry
        return {**entry, "device": "cpu"}

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[MethodConfig, ...]) -> tuple[MethodConfig, ...]:
        if repeated := repeated_names([entry.name for entry in methods]):
            raise ValueError(f"{repeated} appears more than once; expected each method once")
        return methods

    @model_validator(mode="after")
    def _consistent(self) -> "TeacherConfig":
        raise_if_any(kind_problems(self))
        if self.trust_remote_code and self.revision is None:
            raise ValueError(
                "trust_remote_code is true without a revision; expected the commit of the code "
                "that is trusted"
            )
        # ``kl`` reads W⁻ where targets are combined; elsewhere ``targets_problems`` refuses it.
        reads = any(m.method.needs_projection or m.name == "kl" for m in self.methods)
        if self.projection != ProjectionConfig() and not reads:
            raise ValueError("projection has no effect: none of the methods reads W; leave it out")
        check_device(self.device, self.resources)
        raise_if_any(device_map_problems(self.resources, self.model_options))
        return self


def repeated_names(names: list[str]) -> str:
    """The names that occur more than once, in quotes.

    >>> repeated_names(["a", "b", "a"]), repeated_names(["a", "b"])
    ('"a"', '')
    """
    return ", ".join(f'"{name}"' for name, count in Counter(names).items() if count > 1)
