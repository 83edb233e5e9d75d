"""One entry of ``teachers[].methods``: a name, a weight and the method's own options.

The method says itself which options it takes: its class is a dataclass that pydantic checks.
"""

from typing import Annotated, Any

from pydantic import (
    Field,
    PlainValidator,
    TypeAdapter,
    field_validator,
    model_serializer,
    model_validator,
)

from losses import methods
from losses.base import Method
from orchestrator.config.messages import unknown
from orchestrator.config.options import build
from orchestrator.config.section import Expected, OtherKeys, Section

ENTRY_KEYS = ("name", "weight")


def build_method(name: str, options: dict[str, Any]) -> Method:
    """The method with its options from YAML, types unchanged (a number in quotes is refused).

    Raises:
        Problems: unknown or wrong options.
        ValueError: there is no such method.
    """
    return build(methods.method_class(name), options, levels_up=1)


def _method_of(options: Any, entry: Any) -> object:
    """Build the method, unless its name (in pydantic's ``ValidationInfo``) is wrong already."""
    return build_method(entry.data["name"], options) if "name" in entry.data else options


class MethodConfig(Section):
    """One method of a teacher: ``name``, ``weight`` and the options of that method."""

    name: Annotated[str, Expected("the name of a method")]
    """Which method: the name of a file in ``losses/methods``."""
    weight: float = Field(1.0, gt=0)
    """Factor of this method's loss, times the teacher's weight."""
    method: Annotated[Method, PlainValidator(_method_of), OtherKeys("options of the method")]
    """The method itself, built from the other keys of the entry; no key of its own."""

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, entry: object) -> object:
        if not isinstance(entry, dict):
            return entry
        own = {key: entry[key] for key in ENTRY_KEYS if key in entry}
        return own | {"method": {key: entry[key] for key in entry if key not in ENTRY_KEYS}}

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in methods.method_names():
            raise ValueError(unknown("method", name, methods.method_names()))
        return name

    @model_serializer
    def _as_entry(self) -> dict[str, Any]:
        options = TypeAdapter(type(self.method)).dump_python(self.method, mode="json")
        return {"name": self.name, "weight": self.weight, **options}
