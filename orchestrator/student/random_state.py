"""The state of every random generator of a process, as one safetensors file."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_random_state(path: Path) -> None:
    """Write the states of Python's, numpy's and torch's generators, those of all GPUs too."""
    version, python, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {
        "python": torch.tensor(python, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    tensors |= {f"cuda/{index}": state for index, state in enumerate(states)}
    rest = {"python": [version, gauss], "numpy": [name, int(position), int(has_gauss), cached]}
    save_file(tensors, path, metadata={"rest": json.dumps(rest)})


def load_random_state(path: Path) -> None:
    """Put every generator back where ``save_random_state`` found it."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rest: dict[str, Any] = json.loads(file.metadata()["rest"])
    version, gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    name, *numbers = rest["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), *numbers))
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for index in range(min(torch.cuda.device_count(), len(tensors) - 3)):
            torch.cuda.set_rng_state(tensors[f"cuda/{index}"], index)
