"""What a rank saves beside the model to continue exactly, and how it continues.

    state/weights.safetensors       master weights, by parameter name
    state/exp_avg.safetensors       AdamW's moments
    state/exp_avg_sq.safetensors
    state/average.safetensors       a running mean of the master weights, where one is kept
    state/buffers.safetensors       what methods own beside their parameters
    state/optimizer.json            the step, and how often each parameter was moved
    state/random-RANK.safetensors   the random generators of each rank

The weights go into the module before an engine wraps it, so that the engine's own copies start
from them; then masters and moments are set. Only safetensors and JSON: nothing is unpickled.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orchestrator.student.adamw import KINDS, AdamWState, Kind, trained_parameters
from orchestrator.student.average import RunningAverage
from orchestrator.student.engine import StudentEngine
from orchestrator.student.module import DistillModule
from orchestrator.student.random_state import load_random_state, save_random_state

log = logging.getLogger(__name__)

AVERAGE = "average.safetensors"


def save_state(engine: StudentEngine, step: int, folder: Path, rank: int) -> None:
    """Write the state after ``step`` updates; all ranks call, rank 0 writes what they share."""
    counts = engine.state.num_updates()
    folder.mkdir(exist_ok=True)
    for kind in KINDS:
        whole = _gathered(engine, kind, rank)
        if rank == 0:
            save_file(whole, _tensors(folder, kind))
    if engine.average is not None:
        average = averaged_weights(engine, rank)
        if rank == 0:
            save_file(average, folder / AVERAGE)
    if rank == 0:
        save_file(_buffers(engine.module), folder / "buffers.safetensors")
        text = json.dumps({"step": step, "num_updates": counts})
        (folder / "optimizer.json").write_text(text + "\n", encoding="utf-8")
    save_random_state(folder / f"random-{rank}.safetensors")


def _gathered(engine: StudentEngine, kind: Kind, rank: int) -> dict[str, Tensor]:
    """Whole tensors by name, one at a time; empty but on rank 0."""
    whole: dict[str, Tensor] = {}
    for name in engine.state.num_updates():
        value = engine.state.read(kind, name)
        if rank == 0:
            whole[name] = value.to("cpu", copy=True).contiguous()
    return whole


def averaged_weights(engine: StudentEngine, rank: int) -> dict[str, Tensor]:
    """The running mean of the masters by name; all ranks call, only rank 0 gets it.

    Raises:
        ValueError: the engine keeps none.
    """
    if engine.average is None:
        raise ValueError("this engine keeps no running mean; expected options.average_decay")
    with engine.average.in_place():
        return _gathered(engine, "weights", rank)


def save_exported_modules(engine: StudentEngine, folder: Path, rank: int) -> None:
    """Write ``method_modules.safetensors`` if a method exports what it trained; all ranks call.

    Names in it are ``teacher/method/parameter``.
    """
    module, found = engine.module, {}
    for number, term in enumerate(module.terms):
        if not term.method.exports_modules:
            continue
        for name, _ in module.method_modules[number].named_parameters():
            value = engine.state.read("weights", f"method_modules.{number}.{name}")
            found[f"{term.name}/{name}"] = value.to("cpu", copy=True).contiguous()
    if found and rank == 0:
        save_file(found, folder / "method_modules.safetensors")


def load_weights_into(module: DistillModule, folder: Path) -> None:
    """Set the module's weights and buffers; call before an engine wraps it.

    Raises:
        ValueError: the checkpoint has other parameters than the module.
    """
    parameters = trained_parameters(module)
    with safe_open(_tensors(folder, "weights"), framework="pt") as file:
        _same_names(set(file.keys()), parameters, folder)
        for name, parameter in parameters.items():
            parameter.data.copy_(file.get_tensor(name))
    buffers = dict(module.method_modules.named_buffers())
    for name, value in load_file(folder / "buffers.safetensors").items():
        buffers[name].copy_(value)


def restore(engine: StudentEngine, folder: Path) -> None:
    """Set master weights, moments and schedule; the module's weights must be loaded already."""
    counts: dict[str, Any] = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    engine.state.begin(counts["num_updates"])
    for kind in KINDS:
        with safe_open(_tensors(folder, kind), framework="pt") as file:
            for name in counts["num_updates"]:
                engine.state.set(kind, name, file.get_tensor(name))
    if engine.average is not None:
        _restore_average(engine.state, engine.average, folder / AVERAGE)
    engine.resume_at(counts["step"])


def _restore_average(state: AdamWState, average: RunningAverage, path: Path) -> None:
    with average.in_place(), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            state.set("weights", name, file.get_tensor(name))


def restore_random_state(folder: Path, rank: int) -> None:
    """Put this rank's generators back; a rank that is new keeps its seed."""
    path = folder / f"random-{rank}.safetensors"
    if path.exists():
        load_random_state(path)
    else:
        log.warning("rank %d is new since the checkpoint: its random generators start anew", rank)


def sizes(engine: StudentEngine) -> tuple[int, int]:
    """About how many bytes the saved model has, and the state of a checkpoint beside it."""
    module, names = engine.module, engine.state.num_updates()
    parameters = dict(module.named_parameters())
    trained = sum(_num_elements(parameters[name]) for name in names)
    model = sum(_num_elements(p) * p.element_size() for p in module.model.parameters())
    kinds = len(KINDS) + (engine.average is not None)
    return model, trained * kinds * torch.float32.itemsize


def _num_elements(parameter: nn.Parameter) -> int:
    """Of the whole parameter: under ZeRO-3 the tensor itself is empty."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _tensors(folder: Path, kind: Kind) -> Path:
    return folder / f"{kind}.safetensors"


def _buffers(module: DistillModule) -> dict[str, Tensor]:
    named = module.method_modules.named_buffers()
    return {name: value.to("cpu", copy=True).contiguous() for name, value in named}


def _same_names(saved: set[str], parameters: dict[str, nn.Parameter], folder: Path) -> None:
    if saved == parameters.keys():
        return
    missing, unknown = sorted(parameters.keys() - saved), sorted(saved - parameters.keys())
    raise ValueError(
        f"{folder} is of another student: it lacks {missing[:3]} and has {unknown[:3]} besides; "
        "resume with the run file that it was trained with"
    )
