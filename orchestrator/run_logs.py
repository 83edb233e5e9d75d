"""The logs of a run's processes, and what they tell about one that hangs.

    logs/teacher-NAME.log   a teacher, all of its processes and replicas one after another
    logs/student-RANK.log   a rank

A call that takes nearly ``train.timeout_s`` writes the stacks of all threads there. Ranks meet in
collectives, so one that hangs makes all of them wait; the stacks tell them apart.
"""

from collections.abc import Sequence
from pathlib import Path

STUDENT = "student"
"""Ranks are called ``student/0``, …; no teacher may have this name."""

LOGS = "logs"
TAIL_BYTES = 1 << 18
DUMP = "Timeout ("
"""How faulthandler begins."""

COLLECTIVE = "distributed_c10d.py"
"""A rank that waits for others does so in this file of torch."""


def log_of(folder: Path, name: str) -> Path:
    """The log of a process: ``student/0``, or a teacher by its name."""
    stem = name.replace("/", "-") if is_rank(name) else f"teacher-{name}"
    return folder.absolute() / LOGS / f"{stem}.log"


def is_rank(name: str) -> bool:
    """True for a rank of the student, False for a teacher.

    >>> is_rank("student/1"), is_rank("gemma")
    (True, False)
    """
    return name.startswith(f"{STUDENT}/")


def who_hangs(folder: Path, late: Sequence[str]) -> str:
    """One sentence on the ranks that are late: which hangs, and where its stacks are."""
    stacks = {name: last_stacks(log_of(folder, name)) for name in late}
    waiting = [name for name, text in stacks.items() if text and COLLECTIVE in text]
    stopped = [name for name, text in stacks.items() if text is None]
    busy = [name for name in late if name not in (*waiting, *stopped)]
    parts = [f"{name} does not even write its stacks" for name in stopped]
    parts += [f"{name} hangs" for name in busy]
    parts += [f"{name} waits for the others" for name in waiting]
    return f"{', '.join(parts)}; stacks and logs are in {folder.absolute() / LOGS}"


def last_stacks(path: Path) -> str | None:
    """The stacks that a process wrote last; None if it wrote none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return text[text.rindex(DUMP) :] if DUMP in text else None
