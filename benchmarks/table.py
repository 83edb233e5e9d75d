"""Printing rows as a table."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows that share their keys; into a file or a pipe as wide as they are."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if name == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, Console(width=1000).measure(table).maximum)
    console.print(table)
