"""Documents of sums such as ``95 + 8 = 103.``, one a line; deterministic.

Sums are drawn with replacement, so most of the held-out ones occur in the training text as well:
the text is about how numbers are written, not about computing what was never seen.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from orchestrator.assets.split import Row, Split, write_split

LARGEST_FIRST = 99
LARGEST_SECOND = 9
SUMS_IN_A_DOCUMENT = 8
NUM_TRAIN = 600
NUM_VALIDATION = 10
NUM_HELD_OUT = 40
SEED = 0


def sums_split() -> Split:
    """The documents of all three parts."""
    draw = random.Random(SEED)
    rows = list(_rows(draw, NUM_TRAIN + NUM_VALIDATION + NUM_HELD_OUT))
    first = NUM_TRAIN + NUM_VALIDATION
    return Split(rows[:NUM_TRAIN], rows[NUM_TRAIN:first], rows[first:])


def _rows(draw: random.Random, count: int) -> Iterator[Row]:
    for number in range(count):
        text = "".join(_sum(draw) for _ in range(SUMS_IN_A_DOCUMENT))
        yield Row(f"numerals/{number}", text, group=text)


def _sum(draw: random.Random) -> str:
    a, b = draw.randint(1, LARGEST_FIRST), draw.randint(1, LARGEST_SECOND)
    return f"{a} + {b} = {a + b}.\n"


def write_sums(folder: Path) -> Split:
    """Write the three JSONL files and return what they hold."""
    parts = sums_split()
    write_split(parts, folder)
    return parts
