"""Gradients under DeepSpeed against plain torch: ranks × accumulation × ZeRO stage × normalisation.

A cell is the largest difference of any parameter's gradient, as a part of that gradient's largest
entry, in float32. DeepSpeed keeps global state, so each cell's ranks are processes of their own,
forked from this one before it computes any gradient.

    python -m benchmarks.normalisation [--quick] [--json FILE]
"""

import argparse
import json
import math
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gradient_setting import Batch, Setting, build_setting, reference
from benchmarks.table import show
from orchestrator.student.deepspeed import prepare_environment
from orchestrator.student.trainer import StudentTrainer

NORMALIZE = ("bytes", "units")
SECONDS = 120


@dataclass(frozen=True)
class Case:
    """One cell of the grid."""

    ranks: int
    accumulation: int
    stage: int

    @property
    def name(self) -> str:
        """For files and messages."""
        return f"ranks{self.ranks}-accumulation{self.accumulation}-zero{self.stage}"


GRID = tuple(Case(*cell) for cell in product((1, 2), (1, 2, 4), (0, 1, 2, 3)))
QUICK = tuple(
    case
    for case in GRID
    if (case.ranks, case.accumulation, case.stage) in {(1, 1, 0), (2, 1, 1), (2, 2, 2), (2, 4, 3)}
)
"""Every value of every axis."""


@dataclass(frozen=True)
class Cell:
    """What was found; ``difference`` is relative, infinite where a job failed."""

    ranks: int
    accumulation: int
    stage: int
    batch: str
    normalize: str
    difference: float
    parameter: str
    error: str = ""


def measure(cases: Sequence[Case], folder: Path) -> list[Cell]:
    """Run the cases one after another and compare each with the reference."""
    torch.set_num_threads(1)
    prepare_environment("cpu", folder / "extensions")
    import deepspeed  # noqa: F401 - before the forks

    setting = build_setting(folder / "student")
    for case in cases:
        _run(case, setting, folder / case.name)
    cells = []
    for (name, batch), normalize in product(setting.batches.items(), NORMALIZE):
        expected = reference(setting, batch, normalize)
        cells += [_cell(case, folder, name, normalize, expected) for case in cases]
    return cells


def _cell(
    case: Case, folder: Path, batch: str, normalize: str, expected: Mapping[str, Tensor]
) -> Cell:
    path = (folder / case.name).with_suffix(".pt")
    if not path.exists():
        errors = [error.read_text() for error in sorted(folder.glob(f"{case.name}.*.error"))]
        text = "\n".join(errors) or f"no answer in {SECONDS} s"
        return Cell(**asdict(case), batch=batch, normalize=normalize, **_failed(text))
    found = torch.load(path)[batch, normalize]
    parameter, value = largest_difference(found, expected)
    return Cell(
        **asdict(case), batch=batch, normalize=normalize, difference=value, parameter=parameter
    )


def _failed(text: str) -> dict[str, Any]:
    return {"difference": math.inf, "parameter": "", "error": text}


def largest_difference(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[str, float]:
    """The parameter whose gradient is furthest off, and how far: a part of its largest entry.

    >>> largest_difference({"w": torch.tensor([1.0, 4.0])}, {"w": torch.tensor([2.0, 4.0])})
    ('w', 0.25)
    >>> largest_difference({}, {"w": torch.ones(1)})
    ('w', inf)
    """
    gaps = {name: math.inf for name in found.keys() ^ expected.keys()}
    for name in found.keys() & expected.keys():
        gap, size = (found[name] - expected[name]).abs().max(), expected[name].abs().max()
        gaps[name] = float(gap / size) if size > 0 else (math.inf if gap > 0 else 0.0)
    worst = max(gaps, key=lambda name: math.inf if math.isnan(gaps[name]) else gaps[name])
    return worst, gaps[worst]


def _run(case: Case, setting: Setting, target: Path) -> None:
    fork = multiprocessing.get_context("fork")
    port = _free_port()
    processes = [
        fork.Process(target=_rank, args=(rank, port, case, setting, target))
        for rank in range(case.ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _rank(rank: int, port: int, case: Case, setting: Setting, target: Path) -> None:
    """One process: its gradients or its error go into a file, and it ends at once."""
    try:
        found = gradients(rank, port, case, setting)
        if rank == 0:
            torch.save(found, target.with_suffix(".pt"))
    except BaseException:
        target.with_suffix(f".{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        sys.stdout.flush()
        os._exit(0)


def gradients(
    rank: int, port: int, case: Case, setting: Setting
) -> dict[tuple[str, str], dict[str, Tensor]]:
    """By batch and normalisation: what this rank's optimizer is about to use, gathered."""
    from orchestrator.student.worker import build_trainer, join_group

    join_group(rank, case.ranks, ("127.0.0.1", port))
    trainer = build_trainer(setting.spec(**asdict(case)), "cpu")
    setting.attach_heads(trainer.engine.module)
    found = {}
    for (name, batch), normalize in product(setting.batches.items(), NORMALIZE):
        trainer.objective = replace(trainer.objective, normalize=normalize)
        found[name, normalize] = _of_step(trainer, batch, slice(rank, None, case.ranks))
    return found


def _of_step(trainer: StudentTrainer, batch: Batch, mine: slice) -> dict[str, Tensor]:
    """One step (the weights stay where they are); all ranks gather the gradients before it."""
    from deepspeed.utils import safe_get_full_grad

    engine, caught = trainer.engine, {}
    update = type(engine).step

    def caught_step() -> Any:
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad:
                caught[name] = safe_get_full_grad(parameter).detach().clone()
        return update(engine)

    engine.step = caught_step
    trainer.step(batch.documents[mine], batch.signals[mine], batch.num_scored_bytes)
    return caught


def table(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """A row a case, a column a batch and normalisation."""
    rows: dict[tuple[int, int, int], dict[str, object]] = {}
    for cell in cells:
        place = (cell.ranks, cell.accumulation, cell.stage)
        head = {"ranks": cell.ranks, "accumulation": cell.accumulation, "ZeRO": cell.stage}
        shown = "failed" if cell.error else f"{cell.difference:.1e}"
        rows.setdefault(place, head)[f"{cell.batch}, {cell.normalize}"] = shown
    return list(rows.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; with ``--json`` write all cells too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="eight of the 24 cells")
    parser.add_argument("--json", type=Path, help="write the cells here")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cells = measure(QUICK if asked.quick else GRID, Path(folder))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(cell) for cell in cells]))
    show("Largest relative difference of a gradient from plain torch's", table(cells))


if __name__ == "__main__":
    main()
