"""DeepSpeed's own options: read, their keys checked, passed through.

DeepSpeed itself ignores a top-level key that it does not know, so a misspelt ``zero_optimization``
would silently be no ZeRO at all. The names are written down here, since importing DeepSpeed takes
seconds; a test compares them with those of the installed release.

Source: DeepSpeed 0.19.8, ``deepspeed/runtime/config.py`` and ``deepspeed/runtime/zero/config.py``.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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

# fmt: off
KEYS = (
    "activation_checkpointing", "aio", "autotuning", "checkpoint", "comet", "comms_logger",
    "communication_data_type", "compile", "csv_monitor", "data_efficiency", "data_types",
    "dataloader_drop_last", "datastates_ckpt", "disable_allgather", "disable_python_gc",
    "dump_state", "expert_parallel", "flops_profiler", "gradient_allreduce_op",
    "gradient_predivide_factor", "hybrid_engine", "log_level", "managed_gradient_accumulation",
    "memory_breakdown", "pipeline", "prescale_gradients", "seq_parallel_communication_data_type",
    "steps_per_print", "tensor_parallel", "tensorboard", "timers", "torch_autocast",
    "use_data_before_expert_parallelism", "vocabulary_size", "wall_clock_breakdown", "wandb",
    "weight_quantization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)
"""Top-level keys that DeepSpeed reads, without those in ``OWNED_KEYS``."""

ZERO_KEYS = (
    "stage", "allgather_bucket_size", "allgather_partitions", "allgather_sequential",
    "compute_grad_norm", "contiguous_gradients", "cpu_offload", "cpu_offload_param",
    "cpu_offload_use_pin_memory", "elastic_checkpoint", "enable_sanity_checks",
    "gather_16bit_weights_on_model_save", "ignore_unused_parameters", "leaf_module",
    "legacy_stage1", "load_from_fp32_weights", "log_trace_cache_warnings", "max_live_parameters",
    "max_reuse_distance", "memory_efficient_linear", "model_persistence_threshold",
    "module_granularity_threshold", "offload_optimizer", "offload_param", "overlap_comm",
    "override_module_apply", "param_persistence_threshold", "parameter_alignment",
    "pipeline_loading_checkpoint", "prefetch_bucket_size", "reduce_bucket_size", "reduce_scatter",
    "round_robin_gradients", "save_muon_momentum_buffer_in_memory", "stage3_allgather_sequential",
    "stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save",
    "stage3_max_live_parameters", "stage3_max_reuse_distance",
    "stage3_model_persistence_threshold", "stage3_module_granularity_threshold",
    "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size",
    "stage3_use_all_reduce_for_fetch_params", "sub_group_size", "use_all_reduce_for_fetch_params",
    "use_multi_rank_bucket_allreduce", "zenflow", "zero_hpz_partition_size",
    "zero_quantized_gradients", "zero_quantized_nontrainable_weights", "zero_quantized_weights",
)
"""Keys of ``zero_optimization``."""
# fmt: on

ZERO_STAGES = (0, 1, 2, 3)


def zero_stage(options: Mapping[str, Any]) -> int:
    """The stage of ZeRO in options that were checked.

    >>> zero_stage({"zero_optimization": {"stage": 3}}), zero_stage({})
    (3, 0)
    """
    return int(options.get("zero_optimization", {}).get("stage", 0))


def check_deepspeed(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse keys that DeepSpeed does not know, at the top and in ``zero_optimization``.

    Raises:
        Problems: a key is unknown, or ``zero_optimization`` is no mapping or has another stage.
    """
    raise_if_any([*_unknown(options, KEYS), *_zero(options.get("zero_optimization", {}))])
    return options


def _unknown(options: Mapping[str, Any], known: tuple[str, ...], *above: str) -> Iterator[Problem]:
    for key in options:
        if key not in known:
            yield Problem((*above, key), unknown("key", key, known))


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
