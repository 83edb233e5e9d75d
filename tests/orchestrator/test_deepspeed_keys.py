"""The keys written down for DeepSpeed are those that the installed release reads."""

import json
import os
import subprocess
import sys

import pytest

from orchestrator.config.deepspeed import KEYS, OWNED_KEYS, ZERO_KEYS

READ = """
import json
from deepspeed.runtime import config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

asked = set()

class Asked(dict):
    def get(self, key, default=None):
        asked.add(key)
        return super().get(key, default)
    def __contains__(self, key):
        asked.add(key)
        return super().__contains__(key)
    def keys(self):
        return self  # only asked whether it contains a key
    def __copy__(self):
        return self

config.DeepSpeedConfig(Asked(train_micro_batch_size_per_gpu=1))
fields = DeepSpeedZeroConfig.model_fields.items()
zero = [name for field, info in fields for name in (field, info.alias) if name]
print(json.dumps([sorted(asked - config._REMOVED_TOP_LEVEL_CONFIG_KEYS.keys()), zero]))
"""
"""Which keys DeepSpeed looks for in a mapping, and the fields of its ZeRO options."""

ONLY_ACROSS_RANKS = {"data_parallel_size", "sequence_parallel_size"}
"""Read only where a process group is there."""


@pytest.mark.slow
def test_they_are_those_of_the_installed_release():
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True
    )
    top, zero = json.loads(done.stdout.splitlines()[-1])
    assert {*KEYS, *OWNED_KEYS} - ONLY_ACROSS_RANKS == set(top)
    assert set(ZERO_KEYS) == set(zero)


def test_each_once():
    assert len({*KEYS, *OWNED_KEYS}) == len(KEYS) + len(OWNED_KEYS)
    assert len(set(ZERO_KEYS)) == len(ZERO_KEYS)
