"""The model card that goes with an exported model: what is known of how it was made.

It is ``README.md`` with YAML on top, as the hub reads it. What the run did not write down, or a
source does not say of itself, is called unknown.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.licences import UNKNOWN, Source, is_hub_id, model_source, text_source
from orchestrator.provenance import Provenance, provenance
from orchestrator.signal_cache.origin import model_of
from orchestrator.student.embeddings.options import BYTES

CARD = "README.md"
MODELLING_FILE = "modeling_ngram_bytes.py"
"""What a model brings that no architecture of transformers opens."""

TRAIN_KEYS = (
    "max_steps",
    "global_batch",
    "learning_rate",
    "lr_schedule",
    "warmup_steps",
    "stages",
    "seed",
)
STUDENT_KEYS = ("tokenizer", "embeddings", "lora", "keep_layers", "drop_layers", "dtype")
_TRANSFER = ("tokenizer", "embeddings")
"""Keys that say something only of a student with another tokenizer than its ``init`` has."""

MIXTURE_KEYS = ("combine", "ce_weight", "weights", "normalize")

BODY = """\
# {name}

A causal language model, exported by `tutelage`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER{flag})
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```

## Recipe

{recipe}

## Training

{training}

## Bits per byte on held-out data

{scores}

## Sources and their licences

{sources}

Which licence this model may have follows from these; it was not decided here.
"""


def model_card(checkpoint: Path, name: str) -> str:
    """The text of the card.

    Args:
        checkpoint: of a run, or any model folder: then most is unknown.
        name: what the model is called.
    """
    known = provenance(checkpoint)
    sources = list(_sources(known.recipe)) if known.recipe else []
    body = BODY.format(
        name=name,
        flag=", trust_remote_code=True" if (checkpoint / MODELLING_FILE).is_file() else "",
        recipe=_table(("setting", "value"), list(_recipe(known.recipe))),
        training=_training(known),
        scores=_scores(known),
        sources=_source_table(sources),
    )
    header = yaml.safe_dump(_header(known, sources), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n{body}"


def _header(known: Provenance, sources: Sequence[Source]) -> dict[str, Any]:
    """What machines read."""
    init = [source.name for source in sources if source.role == "student" and is_hub_id(source)]
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": UNKNOWN,
        **({"base_model": init} if init else {}),
        "tags": ["tutelage", "knowledge-distillation"],
        "tutelage": {
            "steps": _or_unknown(known.step),
            "tokens_seen": _or_unknown(known.num_tokens),
            "bytes_seen": _or_unknown(known.num_bytes),
            "bits_per_byte": {
                "before": _or_unknown(known.before),
                "after": _or_unknown(known.after),
                "teachers": dict(known.teachers),
                "held_out_bytes": _or_unknown(known.held_out_bytes),
            },
            "sources": [{"role": s.role, "name": s.name, "licence": s.licence} for s in sources],
        },
    }


def _recipe(recipe: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """The main facts of a run file: keys that are set, and their values."""
    if recipe is None:
        yield "run file", UNKNOWN
        return
    student = recipe.get("student") or {}
    yield "student.init", _named(student.get("init"))
    same = student.get("tokenizer") in (None, student.get("init"))
    if network := _hypernetwork(student):
        own = student["embeddings"] | {"hypernetwork": _named(network)}
        student = student | {"embeddings": own}
    yield from _set_keys(student, "student", [k for k in STUDENT_KEYS if k not in _TRANSFER * same])
    for teacher in recipe.get("teachers") or []:
        yield f"teacher {teacher.get('name')}", _teacher(teacher)
    if not recipe.get("teachers"):
        yield "teachers", "none"
    yield from _set_keys(recipe.get("mixture"), "mixture", MIXTURE_KEYS)
    yield from _set_keys(recipe.get("train"), "train", TRAIN_KEYS)
    yield from _set_keys(recipe.get("data"), "data", ("max_length",))


def _set_keys(
    section: Mapping[str, Any] | None, name: str, keys: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Those of a section's keys that say something; a folder is told by its last part only."""
    for key in keys:
        value = (section or {}).get(key)
        if value is not None and value != []:
            yield f"{name}.{key}", _named(value) if key == "tokenizer" else _value(value)


def _teacher(teacher: Mapping[str, Any]) -> str:
    """A teacher's model, weight and methods."""
    model = model_of(teacher)
    where = _named(model) if model else "the student as it was at the start"
    if teacher.get("path"):
        where = f"signals of {_named(model)} kept on disk"
    if teacher.get("refresh"):
        where = f"a running mean of the student ({_value(teacher['refresh'])})"
    methods = ", ".join(_method(method) for method in teacher.get("methods") or [])
    return f"{where}, weight {_value(teacher.get('weight', 1.0))}, by {methods}"


def _method(method: Mapping[str, Any]) -> str:
    options = {key: value for key, value in method.items() if key != "name" and value is not None}
    text = ", ".join(f"{key} {_value(value)}" for key, value in options.items())
    return f"{method.get('name')} ({text})" if text else str(method.get("name"))


def _sources(recipe: Mapping[str, Any]) -> Iterator[Source]:
    """Models and texts, each once for each role."""
    student = recipe.get("student") or {}
    if init := student.get("init"):
        yield model_source("student", init, student.get("revision"))
    if (tokenizer := student.get("tokenizer")) not in (None, BYTES, init):
        yield model_source("tokenizer", str(tokenizer))
    if network := _hypernetwork(student):
        yield model_source("hypernetwork of the embeddings", network)
    for teacher in recipe.get("teachers") or []:
        if model := model_of(teacher):
            role = f"teacher {teacher.get('name')}"
            yield model_source(role, model, teacher.get("revision"))
    data = recipe.get("data") or {}
    roles = {"train": "training text", "validation": "validation text", "held_out": "held-out text"}
    for key, role in roles.items():
        for reference in data.get(key) or []:
            yield text_source(role, reference)


def _hypernetwork(student: Mapping[str, Any]) -> str | None:
    """The folder of the network that made a student's embeddings, if one did."""
    found = (student.get("embeddings") or {}).get("hypernetwork")
    return found if isinstance(found, str) else None


def _training(known: Provenance) -> str:
    rows = {
        "optimizer updates": _count(known.step),
        "tokens seen": _count(known.num_tokens),
        "bytes seen (those that counted)": _count(known.num_bytes),
    }
    return _table(("", ""), list(rows.items()))


def _scores(known: Provenance) -> str:
    rows = {"before training": known.before, "this model": known.after}
    rows |= {f"teacher {name}": value for name, value in known.teachers.items()}
    cells = [(name, UNKNOWN if v is None else f"{v:.4f}") for name, v in rows.items()]
    where = f"Over {_count(known.held_out_bytes)} bytes of `data.held_out`."
    return f"{_table(('model', 'bits per byte'), cells)}\n\n{where}"


def _source_table(sources: Sequence[Source]) -> str:
    if not sources:
        return f"The models and texts that this model was made from are {UNKNOWN}."
    rows = [
        (
            source.role,
            f"{source.name}: {source.note}" if source.note else source.name,
            source.licence,
        )
        for source in sources
    ]
    return _table(("role", "source", "licence"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _named(reference: object) -> str:
    """A model as a stranger may know it: of a path only its last part."""
    return UNKNOWN if reference is None else model_source("", str(reference)).name


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _or_unknown(value: int | float | None) -> int | float | str:
    return UNKNOWN if value is None else value
