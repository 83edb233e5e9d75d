"""What ``mixture.combine: targets`` needs: one method of all teachers, in a space they share."""

from collections.abc import Iterator, Sequence

from losses.ensembles import SPACES, ensemble_of
from orchestrator.config.mixture import MixtureConfig
from orchestrator.config.problems import Location, Problem
from orchestrator.config.projection import ProjectionConfig
from orchestrator.config.teacher import TeacherConfig

RESERVED = "ensemble"
"""What metrics call the teachers together."""
INSTEAD = 'expected bld, alm or kl for all teachers, or mixture.combine "losses"'


def targets_problems(
    mixture: MixtureConfig, teachers: Sequence[TeacherConfig]
) -> Iterator[Problem]:
    """Why the teachers' targets cannot be combined as the run file says."""
    if mixture.combine == "losses":
        if mixture.mean is not None:
            yield Problem(
                ("mixture", "mean"),
                f'"{mixture.mean}" has no effect where losses are combined; expected null, or '
                'mixture.combine "targets"',
            )
        yield from _projection_problems(teachers)
        return
    if len(teachers) < 2:
        yield Problem(
            ("mixture", "combine"),
            f'"targets" is the mean of two teachers or more, found {len(teachers)}; expected '
            '"losses"',
        )
        return
    problems = [*_name_problems(teachers), *_number_problems(teachers)]
    yield from problems or _method_problems(mixture, teachers)


def _projection_problems(teachers: Sequence[TeacherConfig]) -> Iterator[Problem]:
    """Options of W⁻, which only combined targets read."""
    for index, teacher in enumerate(teachers):
        reads = any(entry.method.needs_projection for entry in teacher.methods)
        if teacher.projection != ProjectionConfig() and not reads:
            yield Problem(
                ("teachers", index),
                "projection has no effect: none of the methods reads W, kl only with "
                'mixture.combine "targets"; leave it out',
            )


def _name_problems(teachers: Sequence[TeacherConfig]) -> Iterator[Problem]:
    for index, teacher in enumerate(teachers):
        if teacher.name == RESERVED:
            yield Problem(
                ("teachers", index, "name"),
                f'"{RESERVED}" is what metrics call combined targets; expected another name',
            )


def _number_problems(teachers: Sequence[TeacherConfig]) -> Iterator[Problem]:
    for index, teacher in enumerate(teachers):
        if len(teacher.methods) != 1:
            names = ", ".join(entry.name for entry in teacher.methods)
            yield Problem(
                ("teachers", index, "methods"),
                f'mixture.combine "targets" makes one loss of one method, found {names}; expected '
                f"one of: {', '.join(SPACES)}",
            )


def _method_problems(
    mixture: MixtureConfig, teachers: Sequence[TeacherConfig]
) -> Iterator[Problem]:
    """The first teacher's method must have a shared space, the others' must equal it."""
    first, place = teachers[0].methods[0], ("teachers", 0, "methods", 0)
    try:
        ensemble_of(first.name, first.method, mixture.ensemble or "arithmetic")
    except ValueError as error:
        yield Problem(place, f"{error}; {INSTEAD}")
        return
    for index, teacher in enumerate(teachers[1:], start=1):
        entry, here = teacher.methods[0], ("teachers", index, "methods", 0)
        if entry.name != first.name:
            yield _other_method(here, entry.name, first.name)
        elif entry.method != first.method:
            yield Problem(
                here,
                f"{entry.name} has other options than that of {teachers[0].name}, so there is no "
                "one loss of combined targets; expected the same options (weights may differ)",
            )


def _other_method(place: Location, name: str, first: str) -> Problem:
    spaces = {method: f"{method} ({space})" for method, space in SPACES.items()}
    return Problem(
        place,
        f"the targets of {spaces.get(name, name)} and {spaces[first]} do not meet; {INSTEAD}",
    )
