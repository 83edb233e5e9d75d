"""What DeepSpeed and AdamW hold for the weights of a rank, by ZeRO's stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.config.deepspeed import zero_stage
from orchestrator.planning.memory import FLOAT32
from orchestrator.planning.skeleton import Sizes

REDUCE_BUCKET = 500_000_000
"""Numbers in DeepSpeed's buffer of gradients unless ``reduce_bucket_size`` is set."""

LIVE_PARAMETERS = 1_000_000_000
"""Numbers that ZeRO-3 keeps gathered unless ``stage3_max_live_parameters`` is set."""


@dataclass(frozen=True)
class Optimizer:
    """Bytes a rank, by what they are.

    Args:
        weights: in the number format of the pass.
        gradients: before the update.
        masters: full-precision weights beside them, where there are any.
        moments: AdamW's two.
        average: a running mean of the masters.
        copies: what an update makes of the gradients, while it lasts.
        bucket: where gradients are reduced while they come.
        gathered: whole weights beside the rank's part, while a pass runs.
        host: in main memory in place of the device.
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    average: int
    copies: int
    bucket: int
    gathered: int = 0
    host: int = 0


def zero_of(config: RunConfig) -> int:
    """The stage that runs: bfloat16 gets 1 at least (``student.deepspeed``)."""
    return max(zero_stage(config.deepspeed), int(config.student.dtype == "bfloat16"))


def optimizer_bytes(config: RunConfig, sizes: Sizes, extra: int, *, on_cpu: bool) -> Optimizer:
    """What DeepSpeed and AdamW hold on each rank.

    Args:
        config: the run.
        sizes: the student's.
        extra: numbers that methods train.
        on_cpu: a CPU's buffers take only what was written into them.

    Source: DeepSpeed 0.19.8, ``runtime/zero/stage_1_and_2.py`` and ``stage3.py``.
    """
    stage, ranks, element = zero_of(config), config.student.num_ranks, sizes.element
    trained, whole = sizes.trained + extra, sizes.parameters + extra
    part = -(-trained // ranks) if stage else trained
    weights = whole * element // (ranks if stage == 3 else 1)
    state = Optimizer(
        weights=weights,
        gradients=(part if stage >= 2 else trained) * element,
        masters=part * FLOAT32 if stage else 0,
        moments=2 * part * FLOAT32,
        average=part * FLOAT32 * any(t.refresh is not None for t in config.teachers),
        copies=_copies(stage, ranks, part, element),
        bucket=_bucket(config, stage, trained * element, element, on_cpu=on_cpu),
        gathered=min(whole, _live(config)) * element if stage == 3 else 0,
    )
    return state if on_cpu else _offloaded(state, _zero(config))


def _copies(stage: int, ranks: int, part: int, element: int) -> int:
    """Of the gradients in float32 for the masters; or, without ZeRO, in one piece to reduce."""
    if stage:
        return part * (element + FLOAT32 * (element < FLOAT32))
    return min(part, REDUCE_BUCKET) * element if ranks > 1 else 0


def _bucket(config: RunConfig, stage: int, gradients: int, element: int, *, on_cpu: bool) -> int:
    options = _zero(config)
    size = int(options.get("reduce_bucket_size", REDUCE_BUCKET)) * element
    if not on_cpu:
        buffers = 2 if options.get("overlap_comm") and stage < 3 else 1
        return size * buffers if stage else 0
    return min(size, gradients) if stage > 1 else 0  # stage 1 moves gradients into it


def _live(config: RunConfig) -> int:
    return int(_zero(config).get("stage3_max_live_parameters", LIVE_PARAMETERS))


def _offloaded(state: Optimizer, options: Mapping[str, Any]) -> Optimizer:
    """With ``offload_optimizer`` (and ``offload_param``, of ZeRO-3) the host holds them."""
    away = {key: (options.get(f"offload_{key}") or {}).get("device") for key in _OFFLOADED}
    names = [name for key, parts in _OFFLOADED.items() if away[key] in _ELSEWHERE for name in parts]
    kept = {name: 0 if name in names else size for name, size in vars(state).items()}
    in_memory = [name for key, parts in _OFFLOADED.items() if away[key] == "cpu" for name in parts]
    return Optimizer(**{**kept, "host": sum(vars(state)[name] for name in in_memory)})


_ELSEWHERE = ("cpu", "nvme")

_OFFLOADED = {"optimizer": ("masters", "moments", "average", "copies"), "param": ("weights",)}


def _zero(config: RunConfig) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.deepspeed.get("zero_optimization", {})
    return found
