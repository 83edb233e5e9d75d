"""Checkpoints of a hypernetwork's training, and whether a run may go on from one.

checkpoint-N/
    hypernetwork.safetensors, hypernetwork.json    as in ``final``: enough for ``apply``
    state/exp_avg.safetensors, exp_avg_sq.safetensors, optimizer.json
    COMPLETE                                       digests of all files, written last
latest                                             name of the newest one
"""

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from orchestrator.checkpoint.contents import STATE, name_of
from orchestrator.checkpoint.retention import Retention
from orchestrator.checkpoint.write import save_model, with_latest
from orchestrator.config.load import parse
from orchestrator.config.yaml_text import read_yaml
from orchestrator.errors import ConfigError
from orchestrator.hypernetwork.config import HypernetworkConfig
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from orchestrator.hypernetwork.trainer import HypernetworkTrainer
from orchestrator.run_folder import RESOLVED
from orchestrator.student.adamw import MOMENTS, WholeState
from orchestrator.student.schedule import resume_schedule

FREE = (
    "output_dir",
    "data.held_out*",
    "model.device",
    "model.threads",
    "train.max_steps",
    "train.micro_batch",
    "train.save_steps",
    "train.save_total_limit",
)
"""May change when a run goes on."""


def save_checkpoint(folder: Path, trainer: HypernetworkTrainer, done: TrainedHypernetwork) -> None:
    """Add a checkpoint and make it the latest; the oldest beyond the limit go.

    Raises:
        ResourcesError: it could not be written; the former ones are as they were.
    """

    def write(partial: Path) -> None:
        done.save(partial)
        _save_moments(partial / STATE, trainer)

    name = name_of(done.num_steps)
    save_model(folder / name, done.num_steps, write)
    with_latest(folder, name)
    Retention(trainer.config.train.save_total_limit).apply(folder)


def restore(trainer: HypernetworkTrainer, checkpoint: Path) -> int:
    """Put network, optimizer and schedule where the checkpoint has them; gives the steps done."""
    loaded = TrainedHypernetwork.load(checkpoint)
    trainer.network.load_state_dict(loaded.network.state_dict())
    state = WholeState(trainer.network, trainer.optimizer)
    counts = json.loads((checkpoint / STATE / "optimizer.json").read_text(encoding="utf-8"))
    state.begin(counts)
    for moment in MOMENTS:
        for name, value in load_file(checkpoint / STATE / f"{moment}.safetensors").items():
            state.set(moment, name, value)
    resume_schedule(trainer.schedule, loaded.num_steps)
    return loaded.num_steps


def check_same_run(folder: Path, config: HypernetworkConfig) -> None:
    """Refuse to go on with a file that would make it another run.

    Raises:
        ConfigError: there is no run, or keys differ that change its numbers.
    """
    file = folder / RESOLVED
    if not file.is_file():
        raise ConfigError(
            f"output_dir: {folder} holds no run to resume ({RESOLVED} is missing); start it "
            "without --resume"
        )
    former = parse(HypernetworkConfig, read_yaml(file), str(file))
    old, new = (dict(_leaves("", c.model_dump(mode="json"))) for c in (former, config))
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    refused = [key for key in changed if not any(fnmatchcase(key, free) for free in FREE)]
    if refused:
        lines = [f"  {key}: {old.get(key)} -> {new.get(key)}" for key in refused]
        raise ConfigError(
            "--resume continues the run that was started, but these keys differ:\n"
            + "\n".join(lines)
            + "\nSet them back, or start another run in another output_dir"
        )


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, entry)
    else:
        yield path, value


def _save_moments(folder: Path, trainer: HypernetworkTrainer) -> None:
    state = WholeState(trainer.network, trainer.optimizer)
    counts = state.num_updates()
    folder.mkdir()
    for moment in MOMENTS:
        read = {name: state.read(moment, name) for name in counts}
        tensors = {n: v.to("cpu", torch.float32, copy=True).contiguous() for n, v in read.items()}
        save_file(tensors, folder / f"{moment}.safetensors")
    (folder / "optimizer.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")
