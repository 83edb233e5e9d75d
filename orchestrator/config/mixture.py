"""The part ``mixture`` of the run file, and a teacher's weight: how losses become one number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)

from losses.mixture import SCHEMES, Schedule, Scheme
from losses.mixture.targets import Mean
from orchestrator.config.deepspeed import zero_stage
from orchestrator.config.messages import as_written, unknown
from orchestrator.config.options import build
from orchestrator.config.problems import Location, Problem, Problems
from orchestrator.config.schema import fields_of
from orchestrator.config.section import Expected, Items, Section

SCHEME_RULE = f"{', '.join(SCHEMES)}, or a mapping with name and options"

PositiveNumber = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]

WEIGHT_RULE = f"a number, above 0, or a mapping ({', '.join(fields_of(Schedule))})"


def read_scheme(value: object) -> Scheme:
    """The scheme of a name, or of a mapping with ``name`` and options.

    Raises:
        Problems: the name is missing, or options are unknown or wrong.
        ValueError: there is no such scheme.
    """
    if isinstance(value, Scheme):
        return value
    options = dict(value) if isinstance(value, dict) else {"name": value}
    if "name" not in options:
        raise Problems([Problem(("name",), f"missing; expected one of: {', '.join(SCHEMES)}")])
    name = options.pop("name")
    if not isinstance(name, str):
        raise ValueError(f"{as_written(name)} is not allowed; expected {SCHEME_RULE}")
    if name not in SCHEMES:
        raise ValueError(f"{as_written(name)}: {unknown('scheme', name, SCHEMES)}")
    return build(SCHEMES[name], options, ("name",))


def scheme_name(scheme: Scheme) -> str:
    """The scheme's name in the run file."""
    return next(name for name, kind in SCHEMES.items() if kind is type(scheme))


def write_scheme(scheme: Scheme) -> str | dict[str, Any]:
    """The scheme as the run file has it: the name alone if it has no options."""
    options: dict[str, Any] = TypeAdapter(type(scheme)).dump_python(scheme, mode="json")
    name = scheme_name(scheme)
    return {"name": name, **options} if options else name


def read_weight(value: object) -> float | Schedule:
    """A teacher's weight.

    Raises:
        Problems: keys of a schedule are unknown or wrong.
        ValueError: it is neither a number above 0 nor a schedule.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, dict):
        return build(Schedule, value)
    try:
        return TypeAdapter(PositiveNumber).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{as_written(value)} is not allowed; expected {WEIGHT_RULE}") from error


def write_weight(weight: float | Schedule) -> float | dict[str, Any]:
    """The weight as the run file has it."""
    return asdict(weight) if isinstance(weight, Schedule) else weight


def _scheme_schema() -> dict[str, Any]:
    """A name, or one mapping for each scheme that has options."""
    forms: list[dict[str, Any]] = [{"enum": list(SCHEMES)}]
    for name, kind in SCHEMES.items():
        schema = TypeAdapter(kind).json_schema()
        properties = {"name": {"const": name}, **schema.get("properties", {})}
        forms.append(
            {
                "title": name,
                "type": "object",
                "properties": properties,
                "required": ["name"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": forms}


WeightScheme = Annotated[
    Scheme,
    PlainValidator(read_scheme),
    PlainSerializer(write_scheme),
    WithJsonSchema(_scheme_schema()),
    Expected(SCHEME_RULE),
]

Weight = Annotated[
    float | Schedule,
    PlainValidator(read_weight, json_schema_input_type=PositiveNumber | Schedule),
    PlainSerializer(write_weight),
    Expected(WEIGHT_RULE),
]

Names = Annotated[
    Items[str],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Expected("a teacher's name, or a list of names"),
]


class RoutingConfig(Section):
    """Which teachers a training document goes to; the others neither read nor teach it."""

    key: Annotated[str, MinLen(1)] = "teacher_id"
    """Key of each row that decides, such as ``teacher_id`` or ``data_source``; required in all."""
    table: dict[str, Names] | None = None
    """Teachers by the key's value, [] for cross-entropy alone; null: the value is a teacher's name
    or a list of names."""


class MixtureConfig(Section):
    """How the losses of all teachers and cross-entropy become one number."""

    combine: Literal["losses", "targets"] = "losses"
    """losses: the weighted sum of every loss; targets: the mean of the teachers' targets first,
    then one loss, where all teachers feed bld, alm or kl."""
    mean: Mean | None = None
    """Of combined targets: arithmetic, of probabilities, or geometric, of log-probabilities; null
    is arithmetic."""
    ce_weight: float = Field(1.0, ge=0)
    """Factor of cross-entropy on the text itself; 0 trains on the teachers alone."""
    weights: WeightScheme = Field("constant", validate_default=True)
    """What becomes of the written weights at each step and on each document: constant, or a scheme
    of ``docs/mixture.md``."""
    routing: RoutingConfig | None = None
    """Send each training document to some of the teachers; null sends it to all."""
    normalize: Literal["bytes", "units"] = "bytes"
    """Divide by the scored bytes of the global batch, or by each loss's own units in it."""

    @property
    def ensemble(self) -> Mean | None:
        """The mean of combined targets; None if losses are combined."""
        return (self.mean or "arithmetic") if self.combine == "targets" else None


def mixture_problems(
    mixture: MixtureConfig, teachers: Sequence[str], deepspeed: Mapping[str, Any]
) -> Iterator[Problem]:
    """What the mixture needs of the other parts of the run file."""
    yield from _scheme_problems(mixture, len(teachers))
    if mixture.weights.observes == "norms" and zero_stage(deepspeed) == 3:
        yield Problem(
            ("mixture", "weights"),
            f'"{scheme_name(mixture.weights)}" takes a gradient for each term, which ZeRO-3 does '
            "not allow; expected deepspeed.zero_optimization.stage up to 2",
        )
    if mixture.routing is not None:
        yield from _routing_problems(mixture, mixture.routing, teachers)


def _scheme_problems(mixture: MixtureConfig, num_teachers: int) -> Iterator[Problem]:
    name, place = scheme_name(mixture.weights), ("mixture", "weights")
    if num_teachers < mixture.weights.min_teachers:
        needed = "a teacher" if mixture.weights.min_teachers == 1 else "two teachers or more"
        yield Problem(place, f'"{name}" needs {needed}, found {num_teachers}; expected "constant"')
    if name == "dynamic" and mixture.ce_weight == 0:
        yield Problem(
            place,
            '"dynamic" scales the teachers\' losses to cross-entropy, whose weight is 0; expected '
            "mixture.ce_weight above 0, or another scheme",
        )


def _routing_problems(
    mixture: MixtureConfig, routing: RoutingConfig, teachers: Sequence[str]
) -> Iterator[Problem]:
    place = ("mixture", "routing")
    if not teachers:
        yield Problem(place, "there is no teacher to send documents to; expected null")
    if routing.table is None:
        return
    for value, names in routing.table.items():
        yield from _entry_problems((*place, "table", value), names, teachers)
        if not names and mixture.ce_weight == 0:
            yield Problem(
                (*place, "table", value),
                "[] with mixture.ce_weight 0 leaves such documents nothing to teach; expected a "
                "teacher",
            )
    yield from _unused_problems((*place, "table"), routing.table, teachers)
    if mixture.weights.min_teachers > 1 and all(len(n) < 2 for n in routing.table.values()):
        yield Problem(
            ("mixture", "weights"),
            f'"{scheme_name(mixture.weights)}" has no effect: no document goes to two teachers; '
            'expected "constant"',
        )


def _entry_problems(
    place: Location, names: Sequence[str], teachers: Sequence[str]
) -> Iterator[Problem]:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        yield Problem(place, f'"{repeated[0]}" appears more than once; expected each name once')
    for index, name in enumerate(names):
        if name not in teachers:
            yield Problem((*place, index), unknown("teacher", name, teachers))


def _unused_problems(
    place: Location, table: Mapping[str, Sequence[str]], teachers: Sequence[str]
) -> Iterator[Problem]:
    used = {name for names in table.values() for name in names}
    for name in teachers:
        if name not in used:
            yield Problem(place, f'"{name}" gets no document; expected it in a list')
