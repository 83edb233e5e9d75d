"""Means, standard errors and intervals of paired differences. Pure functions.

Two sources of chance are kept apart: the seed (order of the documents) and the choice of the
held-out documents. A difference counts only if it is clear of both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from orchestrator.evaluation import Lead, lead
from teachers.document_score import DocumentScore

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Quantiles of Student's t for 1 to 10 degrees of freedom: 95 % lie within plus and minus them."""

Z_975 = 1.959964


@dataclass(frozen=True)
class Mean:
    """Mean over seeds and its standard error; None with one seed."""

    value: float
    standard_error: float | None
    count: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % by Student's t; None with one seed."""
        if self.standard_error is None:
            return None
        half = t_975(self.count - 1) * self.standard_error
        return self.value - half, self.value + half


class Verdict(Enum):
    """What a difference says of the first of two arms."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "not distinguishable"


@dataclass(frozen=True)
class Difference:
    """By how many bits per byte an arm is better than another one (above 0: better).

    ``over_seeds`` are the paired differences, one a seed; ``over_documents`` is the bootstrap over
    held-out documents of the same difference, each document's scores added over the seeds.
    """

    arm: str
    other: str
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    over_seeds: Mean
    over_documents: Lead

    @property
    def verdict(self) -> Verdict:
        """Clear only if both intervals lie on the same side of 0; with one seed, the documents'."""
        documents = (self.over_documents.low, self.over_documents.high)
        intervals = [documents, self.over_seeds.interval or documents]
        if all(low > 0 for low, _ in intervals):
            return Verdict.BETTER
        if all(high < 0 for _, high in intervals):
            return Verdict.WORSE
        return Verdict.UNCLEAR


def t_975(freedom: int) -> float:
    """Student's t: half the width of a 95 % interval, in standard errors.

    Beyond ten degrees of freedom by the Cornish-Fisher expansion, exact to 0.001.

    >>> t_975(2), round(t_975(20), 2), round(t_975(1000), 2)
    (4.303, 2.09, 1.96)

    Raises:
        ValueError: there are no degrees of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom; expected at least 1")
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    z = Z_975
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error (sample standard deviation over the root of the count).

    Raises:
        ValueError: there are no values.

    >>> mean_of([1.0, 3.0])
    Mean(value=2.0, standard_error=1.0, count=2)
    """
    count = len(values)
    if not count:
        raise ValueError("no value to take a mean of")
    value = math.fsum(values) / count
    if count == 1:
        return Mean(value, None, 1)
    variance = math.fsum((x - value) ** 2 for x in values) / (count - 1)
    return Mean(value, math.sqrt(variance / count), count)


def difference(
    arm: str,
    other: str,
    ours: dict[int, list[DocumentScore]],
    theirs: dict[int, list[DocumentScore]],
) -> Difference:
    """Compare two arms on the seeds that both have.

    Args:
        arm: name of the arm.
        other: name of the one it is compared with.
        ours: the arm's scores of each held-out document, by seed.
        theirs: the other's.

    Raises:
        ValueError: they share no seed, or scored different bytes.
    """
    seeds = tuple(seed for seed in ours if seed in theirs)
    if not seeds:
        raise ValueError(f"{arm} and {other} have no seed in common, so they cannot be compared")
    leads = [lead(ours[seed], theirs[seed], num_resamples=1).value for seed in seeds]
    return Difference(
        arm=arm,
        other=other,
        seeds=seeds,
        by_seed=tuple(leads),
        over_seeds=mean_of(leads),
        over_documents=lead(_added(ours, seeds), _added(theirs, seeds)),
    )


def _added(scores: dict[int, list[DocumentScore]], seeds: Sequence[int]) -> list[DocumentScore]:
    """Each document's scores added over the seeds."""
    return [
        DocumentScore(
            nats=math.fsum(row.nats for row in rows),
            num_bytes=sum(row.num_bytes for row in rows),
            num_tokens=sum(row.num_tokens for row in rows),
        )
        for rows in zip(*(scores[seed] for seed in seeds), strict=True)
    ]
