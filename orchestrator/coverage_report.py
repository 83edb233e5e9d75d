"""What ``tutelage prepare`` prints about W: a table of token classes and two sentences."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from losses.alignment.coverage import ClassCoverage
from orchestrator.prepare import PreparedPair

SIDES = ("student's", "teacher's")
COLUMNS = ("tokens", "exact", "split", "empty", "of text", "of it exact")
TARGET_COLUMNS = ("exact", "of text", "of it exact")


def coverage_report(pair: PreparedPair) -> RenderableType:
    """The table of one teacher and what follows from it.

    Of W⁻ there is only the table: a partition loss does not read it, and there is no choice.
    """
    if pair.is_reverse:
        return _table(pair)
    return Group(_table(pair), Text(_dropped(pair)), Text(f"Advice: {pair.coverage.advice}."))


def _table(pair: PreparedPair) -> Table:
    name, sides = ("W⁻", ("teacher's", "student's")) if pair.is_reverse else ("W", SIDES)
    table = Table(title=f"{name} of {pair.teacher}: {pair.num_entries:,} weights in {pair.folder}")
    table.add_column(sides[0])
    for column in (*COLUMNS, sides[1], *TARGET_COLUMNS):
        table.add_column(column, justify="right")
    total = pair.coverage.total
    for name, found in pair.coverage.classes.items():
        table.add_row(name.value, *_cells(found, total))
    table.add_section()
    table.add_row("all", *_cells(total, total))
    return table


def _cells(found: ClassCoverage, total: ClassCoverage) -> list[str]:
    return [
        f"{found.student:,}",
        _share(found.exact, found.student),
        f"{found.split:,}",
        f"{found.empty:,}",
        _share(found.seen, total.seen),
        _share(found.seen_exact, found.seen),
        f"{found.teacher:,}",
        _share(found.teacher_exact, found.teacher),
        _share(found.teacher_seen, total.teacher_seen),
        _share(found.teacher_seen_exact, found.teacher_seen),
    ]


def _dropped(pair: PreparedPair) -> str:
    total = pair.coverage.total
    text = (
        "A partition loss compares by rank alone "
        f"{_share(total.student - total.exact, total.student)} of the student's vocabulary and "
        f"{_share(total.teacher_other, total.teacher)} of the teacher's"
    )
    if total.seen and total.teacher_seen:
        ours = _share(total.seen - total.seen_exact, total.seen)
        theirs = _share(total.teacher_seen - total.teacher_seen_exact, total.teacher_seen)
        text += (
            f"; in the training text {ours} of {total.seen:,} student tokens and {theirs} of "
            f"{total.teacher_seen:,} teacher tokens"
        )
    return f"{text}."


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
