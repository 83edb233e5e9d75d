"""How much of what a change cost the student its training brought back.

A student that gets another tokenizer, or loses layers, is worse than its original at first. Its
original is a teacher of kind ``self``, which is scored on the same held-out bytes before step 0.
"""

from collections.abc import Mapping

from orchestrator.config import RunConfig


def original_of(config: RunConfig) -> str | None:
    """The teacher that is the student's unchanged original; None if there is none.

    A student that is as its ``init`` has lost nothing, so it has no gap either.
    """
    student = config.student
    if not (student.transfers or student.keep_layers or student.drop_layers):
        return None
    return next((teacher.name for teacher in config.teachers if teacher.kind == "self"), None)


def gap_recovered(before: float, now: float, original: float) -> float:
    """(before - now) / (before - original), in bits per byte; above 1 it beats the original.

    Args:
        before: of the untrained student.
        now: of the student after its training.
        original: of the model that the student was made from.

    Raises:
        ValueError: the untrained student is no worse than the original.

    >>> gap_recovered(9.0, 3.0, 1.0)
    0.75
    """
    if not before > original:
        raise ValueError(
            f"{before} bits per byte before training and {original} of the original: there is no "
            "gap to recover; expected more before training"
        )
    return (before - now) / (before - original)


def gaps_recovered(
    config: RunConfig, before: float, after: Mapping[str, float], teachers: Mapping[str, float]
) -> dict[str, float]:
    """By arm of a run; {} without the original among the teachers, or without a gap.

    Args:
        config: the run file, with all teachers.
        before: bits per byte of the untrained student.
        after: of each arm.
        teachers: of each teacher.
    """
    original = original_of(config)
    if original is None or not before > teachers[original]:
        return {}
    return {name: gap_recovered(before, now, teachers[original]) for name, now in after.items()}
