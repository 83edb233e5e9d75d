"""The JSON schema of the run file, for editors: keys, types, bounds, defaults and meanings.

Editors check by it while one writes. It knows less than ``tutelage validate``, which also checks
what two keys say together.
"""

import inspect
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from losses import methods
from orchestrator.config.reference import read_docstring
from orchestrator.config.run import RunConfig

DIALECT = GenerateJsonSchema.schema_dialect

OPTIONS_KEY = "method"
"""The field of ``MethodConfig`` that stands for the options; no key of the run file."""


def json_schema() -> dict[str, Any]:
    """The schema of a run file; the entries of ``methods`` are one of the methods by name."""
    schema = RunConfig.model_json_schema()
    definitions = schema["$defs"]
    definitions["MethodConfig"] = _method_entry(definitions["MethodConfig"])
    return {"$schema": DIALECT, **schema, "title": "Run file of tutelage"}


def _method_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of one method: its own keys, and the options of the method it names."""
    own = {key: value for key, value in entry["properties"].items() if key != OPTIONS_KEY}
    forms = [_form(name, own) for name in methods.method_names()]
    return {"title": entry["title"], "description": entry["description"], "oneOf": forms}


def _form(name: str, own: dict[str, Any]) -> dict[str, Any]:
    kind = methods.method_class(name)
    options = TypeAdapter(kind).json_schema()
    summary, meanings = read_docstring(inspect.getdoc(kind) or "")
    documented = {
        key: {**value, "description": meanings.get(key, "")}
        for key, value in options.get("properties", {}).items()
    }
    return {
        "title": name,
        "description": summary,
        "type": "object",
        "properties": {**own, "name": {**own["name"], "const": name}, **documented},
        "required": ["name", *options.get("required", [])],
        "additionalProperties": False,
    }
