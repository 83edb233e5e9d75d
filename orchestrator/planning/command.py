"""The command ``tutelage plan``: what a run takes, before anything is loaded."""

from typing import Annotated

import typer
from rich.console import Console

from orchestrator.explained import explained

RunFile = Annotated[
    str, typer.Argument(metavar="RUN.yaml", help="A run file, or the name of a shipped one.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Set keys: train.micro_batch=1.")
]
Gpus = Annotated[
    float | None, typer.Option("--gpus", min=0, help="GPUs of the cluster; those here by default.")
]
GpuMemory = Annotated[
    float | None, typer.Option("--gpu-memory", min=0.001, help="GiB of each GPU.")
]
DeviceSpeed = Annotated[
    float | None,
    typer.Option(
        "--device-speed",
        min=1.0,
        help="Operations a second that a GPU attains (3e14), or without GPUs a core; measured by "
        "default.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def plan(
    run_file: RunFile,
    overrides: Overrides = None,
    gpus: Gpus = None,
    gpu_memory: GpuMemory = None,
    device_speed: DeviceSpeed = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run takes: memory, placement, bytes on the wire, time and disk.

    No weights are loaded. A run that cannot fit ends with code 3, and what to change.
    """
    with explained():
        from orchestrator.config import load_run

        config = load_run(run_file, overrides or [])
        from orchestrator.planning.hardware import GIB, Declared
        from orchestrator.planning.plan import plan as make
        from orchestrator.planning.table import as_data, plan_tables

        memory = None if gpu_memory is None else int(gpu_memory * GIB)
        found = make(config, Declared(gpus, memory, device_speed))
        if as_json:
            import json

            typer.echo(json.dumps(as_data(found), indent=2))
        else:
            Console().print(plan_tables(found), soft_wrap=True)
        found.require_room()
