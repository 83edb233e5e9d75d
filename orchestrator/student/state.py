"""What a rank saves beside the model to continue exactly, and how it continues.

    state/weights.safetensors       master weights, by parameter name
    state/exp_avg.safetensors       AdamW's moments
    state/exp_avg_sq.safetensors
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

from orchestrator.student.adamw import KINDS, Kind, trained_parameters
from orchestrator.student.engine import StudentEngine
from orchestrator.student.module import DistillModule
from orchestrator.student.random_state import load_random_state, save_random_state

log = logging.getLogger(__name__)


def save_state(engine: StudentEngine, step: int, folder: Path, rank: int) -> None:
    """Write the state after ``step`` updates; all ranks call, rank 0 writes what they share."""
    state, names = engine.state, list(trained_parameters(engine.module))
    folder.mkdir(exist_ok=True)
    for kind in KINDS:
        whole: dict[str, Tensor] = {}
        for name in names:
            value = state.read(kind, name)
            if rank == 0:
                whole[name] = value.to("cpu", copy=True).contiguous()
        if rank == 0:
            save_file(whole, _tensors(folder, kind))
    if rank == 0:
        save_file(_buffers(engine.module), folder / "buffers.safetensors")
        counts = {"step": step, "num_updates": state.num_updates()}
        (folder / "optimizer.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")
    save_random_state(folder / f"random-{rank}.safetensors")


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
    engine.resume_at(counts["step"])


def restore_random_state(folder: Path, rank: int) -> None:
    """Put this rank's generators back; a rank that is new keeps its seed."""
    path = folder / f"random-{rank}.safetensors"
    if path.exists():
        load_random_state(path)
    else:
        log.warning("rank %d is new since the checkpoint: its random generators start anew", rank)


def sizes(module: DistillModule) -> tuple[int, int]:
    """About how many bytes the saved model has, and the state of a checkpoint beside it."""
    trained = sum(_num_elements(p) for p in trained_parameters(module).values())
    model = sum(_num_elements(p) * p.element_size() for p in module.model.parameters())
    return model, trained * len(KINDS) * torch.float32.itemsize


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
