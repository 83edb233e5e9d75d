"""The plan as tables for people and as plain data for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.planning.hardware import GIB
from orchestrator.planning.limits import in_gib
from orchestrator.planning.plan import Plan


def plan_tables(plan: Plan) -> RenderableType:
    """Memory, wire and the sentences on time, disk and limits."""
    sentences = Text("\n".join(_sentences(plan)))
    return (
        Group(_memory(plan), _wire(plan), sentences)
        if plan.wire
        else Group(_memory(plan), sentences)
    )


def as_data(plan: Plan) -> dict[str, Any]:
    """Everything, in bytes, seconds and operations."""
    found = asdict(plan)
    for name, process in plan.processes.items():
        found["processes"][name]["device"] = process.device
    found["limits"] = [
        {**asdict(limit), "load": limit.load, "fits": not limit.is_broken} for limit in plan.limits
    ]
    found["disk"]["total"] = plan.disk.total
    found["fits"] = not any(limit.is_broken for limit in plan.limits)
    return found


def _memory(plan: Plan) -> Table:
    table = Table(title="Memory of each process, above what Python and its packages take")
    for column in ("process", "device", "parameters", "peak, GiB", "at", "of which, GiB"):
        table.add_column(
            column, justify="left" if column in ("process", "of which, GiB") else "right"
        )
    for name, process in plan.processes.items():
        parts = sorted(process.memory.parts.items(), key=lambda part: -part[1])
        several = f" × {process.count}" if process.count > 1 else ""
        table.add_row(
            name + several,
            process.device,
            _count(process.sizes.parameters) if process.sizes else "none here",
            f"{process.memory.peak / GIB:.2f}",
            process.memory.moment,
            ", ".join(f"{part} {size / GIB:.2f}" for part, size in parts if size > GIB / 200),
        )
    return table


def _wire(plan: Plan) -> Table:
    table = Table(title="Signals on the wire")
    for column in ("teacher", "method", "bytes a token", "bytes a step", "cache of all documents"):
        table.add_column(column, justify="left" if column in ("teacher", "method") else "right")
    for name, wire in plan.wire.items():
        methods = ", ".join(wire.per_token)
        each = ", ".join(f"{size:,.0f}" for size in wire.per_token.values())
        table.add_row(name, methods, each, f"{wire.per_step:,}", f"{wire.stored:,} B")
    return table


def _origins(plan: Plan) -> Iterator[str]:
    """What the tables do not show of teachers without a model of their own here."""
    for name, wire in plan.wire.items():
        if wire.origin == "server":
            yield (
                f"{name} answers behind a server: {wire.requests_per_step:g} requests and "
                f"{wire.read_per_step:,} bytes of answers a step; how long it takes is not known."
            )
        if wire.origin == "cache":
            yield f"{name} is read from a folder: {wire.read_per_step:,} bytes a step, no model."
        if wire.origin == "student":
            yield f"{name} runs inside the student's ranks, with their weights: no process."


def _sentences(plan: Plan) -> Iterator[str]:
    yield f"Placement: {'; '.join(plan.placement)}."
    yield from _origins(plan)
    flops = ", ".join(f"{name} {p.flops:.2g}" for name, p in plan.processes.items() if p.flops)
    yield f"Floating-point operations a step: {flops}."
    alone = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in plan.step.alone.items())
    yield (
        f"A step takes about {plan.step.seconds:.2f} s ({alone}, each alone), bound by "
        f"{plan.step.binds}; {plan.num_steps} steps {plan.num_steps * plan.step.seconds:.0f} s."
    )
    disk = plan.disk
    yield (
        f"Disk: {in_gib(disk.total)} ({'two arms, each ' if disk.arms > 1 else ''}model "
        f"{in_gib(disk.model)}, {disk.num_checkpoints} checkpoints of {in_gib(disk.checkpoint)})."
    )
    yield f"In the object store at most {in_gib(plan.in_flight)}."
    binds = plan.binds
    yield (f"What is tightest: {binds.name}, {binds.load:.0%} used ({binds.amounts}).")


def _count(number: int | float) -> str:
    """A number of parameters.

    >>> _count(134_515_008), _count(70.6e9)
    ('135 M', '70.6 B')
    """
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"
