"""The keys written down for DeepSpeed are those that the installed release reads."""

import json
import os
import subprocess
import sys

import pytest

from orchestrator.config.deepspeed import OWNED_KEYS
from orchestrator.config.deepspeed_keys import KEYS, SECTIONS, ZERO_KEYS

READ = """
import json
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.inference.config import WeightQuantConfig
from deepspeed.monitor.config import DeepSpeedMonitorConfig
from deepspeed.runtime import config
from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
from deepspeed.runtime.zenflow.zenflow_config import ZenFlowConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

found = {}

class Asked(dict):
    def __init__(self, path, content=()):
        super().__init__(content)
        self.keys_asked = found.setdefault(path, set())
    def get(self, key, default=None):
        self.keys_asked.add(key)
        return super().get(key, default)
    def __contains__(self, key):
        self.keys_asked.add(key)
        return super().__contains__(key)
    def __getitem__(self, key):
        self.keys_asked.add(key)
        return super().__getitem__(key)
    def keys(self):
        return self  # only asked whether it contains a key
    def __copy__(self):
        return self

read_one_by_one = (
    "activation_checkpointing", "aio", "autotuning", "data_types", "flops_profiler", "timers",
    "torch_autocast",
)
sections = {name: Asked(name) for name in read_one_by_one}
parts = {name: Asked(f"checkpoint.{name}") for name in ("writer", "parallel_write")}
sections["checkpoint"] = Asked("checkpoint", parts)
config.DeepSpeedConfig(Asked("", {"train_micro_batch_size_per_gpu": 1, **sections}))
found[""] -= config._REMOVED_TOP_LEVEL_CONFIG_KEYS.keys()

zero = "zero_optimization"
models = {
    "comms_logger": CommsLoggerConfig,
    "compile": CompileConfig,
    "hybrid_engine": config.HybridEngineConfig,
    "tensor_parallel": TPTrainingConfig,
    "timers.throughput": DeepSpeedThroughputTimerConfig,
    "weight_quantization": WeightQuantConfig,
    zero: DeepSpeedZeroConfig,
    f"{zero}.leaf_module": DeepSpeedZeroLeafModuleConfig,
    f"{zero}.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    f"{zero}.offload_param": DeepSpeedZeroOffloadParamConfig,
    f"{zero}.zenflow": ZenFlowConfig,
} | {name: field.annotation for name, field in DeepSpeedMonitorConfig.model_fields.items()}
for path, model in models.items():
    fields = model.model_fields.items()
    found[path] = {name for field, info in fields for name in (field, info.alias) if name}
print(json.dumps({path: sorted(keys) for path, keys in found.items()}))
"""
"""Which keys DeepSpeed looks for in its mappings, and the fields of its models."""

ONLY_ACROSS_RANKS = {"data_parallel_size", "sequence_parallel_size"}
"""Read only where a process group is there."""


@pytest.mark.slow
def test_they_are_those_of_the_installed_release():
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True
    )
    found = {path: set(keys) for path, keys in json.loads(done.stdout.splitlines()[-1]).items()}
    assert {*KEYS, *OWNED_KEYS} - ONLY_ACROSS_RANKS == found.pop("")
    assert set(ZERO_KEYS) == found.pop("zero_optimization")
    assert {path: set(keys) for path, keys in SECTIONS.items()} == found


def test_each_once():
    assert len({*KEYS, *OWNED_KEYS}) == len(KEYS) + len(OWNED_KEYS)
    for keys in (ZERO_KEYS, *SECTIONS.values()):
        assert len(set(keys)) == len(keys)


def test_every_section_is_a_key():
    for path in SECTIONS:
        above, _, last = path.rpartition(".")
        assert last in {"": KEYS, "zero_optimization": ZERO_KEYS, **SECTIONS}[above]
