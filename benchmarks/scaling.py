"""The tables of docs/scaling.md, from formulas: nothing is measured here.

    python -m benchmarks scaling

The formulas are those of ``orchestrator.planning.scaling``; ``benchmarks/simulate.py`` holds them
against the real stream.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence

from losses.base import Method
from losses.methods import method_class, method_names
from orchestrator.planning.scaling import (
    DECODERS,
    Cluster,
    Forecast,
    Job,
    forecast,
    ranks_for,
    signal_bytes,
)

METHODS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("alm", {}),
    ("h_kl", {"k": 64}),
    ("bld", {}),
    ("kl", {}),
    ("h_kl", {"k": 2048}),
)
"""From few bytes to many."""

COUNTS = (2, 8, 16, 64)

NODES = (1, 2, 4, 8, 16)


def main() -> None:
    """Print all tables in Markdown."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for title, table in TABLES.items():
        print(f"\n## {title}\n\n{markdown(list(table()))}")


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows that share their keys as a table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[n]) for n in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bytes_table() -> Iterator[dict[str, object]]:
    """Every method with its default options, by the size of the teacher."""
    for name in method_names():
        method: Method = method_class(name)()
        sizes = {size: f"{signal_bytes(method, size):,.0f}" for size in DECODERS}
        yield {"method": f"`{name}`", **sizes}


def rate_table() -> Iterator[dict[str, object]]:
    """8B teachers, a 1B student on 8 GPUs that does not wait."""
    cluster = Cluster(nodes=max(NODES))
    for name, options in METHODS:
        rates = {}
        for count in COUNTS:
            method: Method = method_class(name)(**options)
            heads = int(method.needs_teacher_head)
            job = Job(count, "8B", "1B", signal_bytes(method, "8B"), heads=heads)
            rates[f"{count} teachers"] = rate_text(forecast(job, cluster).wire)
        yield {"method": f"`{name}`{_shown(options)}", **rates}


def binding_table() -> Iterator[dict[str, object]]:
    """Teachers, their size, the student: what each number of nodes comes to with ``kl``."""
    for student in ("1B", "8B"):
        for size in ("1B", "8B", "70B"):
            for count in COUNTS:
                yield _binding(student, size, count)


def _binding(student: str, size: str, count: int) -> dict[str, object]:
    each = signal_bytes(method_class("kl")(), size)
    cells = {}
    needed: Forecast | None = None
    for nodes in NODES:
        cluster = Cluster(nodes)
        job = Job(count, size, student, each, ranks=max(4, ranks_for(student, cluster)))
        needed = forecast(job, cluster)
        cells[f"{nodes} node{'s' * (nodes > 1)}"] = cell(needed)
    replicas = needed.replicas if needed else 0
    gpus = replicas * count * (needed.gpus_per_replica if needed else 0)
    return {
        "student": student,
        "teachers": f"{count} × {size}",
        "replicas needed": f"{replicas} ({gpus:,} GPUs)",
        **cells,
    }


def cell(found: Forecast) -> str:
    """Seconds of a step, who binds, and the replicas that there is room for.

    >>> cell(Forecast({"student": 1.0, "teachers": 2.0}, 4, 1, 2, 0.0))
    '2.0 s, teachers (2)'
    """
    if not found.fits:
        return "no room"
    return f"{found.step:.1f} s, {found.binds} ({found.replicas_placed})"


def network_table() -> Iterator[dict[str, object]]:
    """The bytes a token from which on the student's network, store or reading binds."""
    cluster = Cluster(nodes=max(NODES))
    for student in ("1B", "8B"):
        for count in COUNTS:
            ranks = max(4, ranks_for(student, cluster))
            job = Job(count, "8B", student, 1.0, ranks=ranks, heads=0)
            found = forecast(job, cluster)
            limits = {
                name: f"{found.seconds['student'] / found.seconds[key]:,.0f}"
                for name, key in (
                    ("network", "nic"),
                    ("object store", "store"),
                    ("reading", "unpacking"),
                )
            }
            yield {"student": student, "teachers": count, **limits}


def rate_text(rate: float) -> str:
    """A rate with its unit.

    >>> rate_text(5e6), rate_text(2.5e9)
    ('5.0 MB/s', '2.5 GB/s')
    """
    power = max(0, min(3, int(math.log10(max(rate, 1.0)) // 3)))
    return f"{rate / 1000**power:.1f} {('B', 'kB', 'MB', 'GB')[power]}/s"


def _shown(options: Mapping[str, object]) -> str:
    return "".join(f", {name} {value}" for name, value in options.items())


TABLES = {
    "Bytes a token": bytes_table,
    "Bytes a second into the student": rate_table,
    "Who binds, and the replicas needed": binding_table,
    "From how many bytes a token on something else than the student binds": network_table,
}


if __name__ == "__main__":
    main()
