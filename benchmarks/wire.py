"""What Ray really stores for each method's signals, against the bytes of their fields.

The rule: at most 1 kB more than the fields for each signal, and at most 10 % more above 64 kB.

    python -m benchmarks wire
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.experimental.locations import get_local_object_locations

from benchmarks.local_ray import local_ray
from benchmarks.table import show
from losses.document import Document, text_document
from losses.methods import method_class, method_names
from losses.signals import Signal
from orchestrator.assets import resolve
from orchestrator.data import load_documents
from teachers.backends.transformers import LanguageModel
from teachers.source import ModelSource
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer

MODELS = ("asset:toy/bytelevel", "asset:smollm2-135m-instruct")
"""The toy is always there; the real one only after ``tutelage assets``."""

ENVELOPE = 1000
"""Bytes that a signal may take beside its fields."""

LARGE = 64 * 1024
"""Above this many bytes of fields all else may take a tenth of them."""

NUM_DOCUMENTS = 4

CHARACTERS = 600


@dataclass(frozen=True)
class Sent:
    """One method's signals: of one document, and of a request of several together.

    Args:
        fields: bytes of the fields.
        stored: bytes of the object that Ray keeps and sends.
        num_signals: in it.
    """

    fields: int
    stored: int
    num_signals: int

    @property
    def beside(self) -> float:
        """Bytes beside the fields, for each signal."""
        return (self.stored - self.fields) / self.num_signals

    @property
    def keeps_the_rule(self) -> bool:
        """See the module."""
        small = self.beside <= ENVELOPE
        return small and (self.fields < LARGE or self.stored <= 1.1 * self.fields)


def main() -> None:
    """Print a row for each model and method; end with an error if one breaks the rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="asset:NAME")
    asked = parser.parse_args()
    with local_ray():
        rows = [row for name in asked.models for row in _rows(name)]
    if not rows:
        raise SystemExit("no model is there")
    show("What Ray stores for signals, bytes", rows)
    if broken := [row["method"] for row in rows if row["rule"] != "kept"]:
        raise SystemExit(f"more than {ENVELOPE} bytes beside the fields: {broken}")


def _rows(name: str) -> list[dict[str, object]]:
    try:
        source = ModelSource(str(resolve(name)), dtype="bfloat16")
    except (FileNotFoundError, ValueError) as error:
        print(f"{name} left out: {error}")
        return []
    model = LanguageModel.load(source, Tokenizer.load(source, name))
    documents = _documents()
    num_tokens = sum(len(tokens) for tokens in model.tokenizer.encode(documents))
    found = []
    for method in method_names():
        signals = Teacher(model, [method_class(method)()]).signals(documents)
        one, request = sent(signals[:1]), sent(signals)
        found.append(
            {
                "teacher": name.rpartition(":")[2],
                "method": method,
                "fields a token": f"{request.fields / num_tokens:.1f}",
                "stored a token": f"{request.stored / num_tokens:.1f}",
                "one document": f"{one.fields:,} + {one.beside:.0f}",
                f"{len(documents)} documents": f"{request.fields:,} + {request.beside:.0f} each",
                "above the fields": f"{request.stored / request.fields - 1:.1%}",
                "rule": "kept" if one.keeps_the_rule and request.keeps_the_rule else "broken",
            }
        )
    return found


def sent(rows: Sequence[tuple[Signal, ...]]) -> Sent:
    """What an answer of a teacher takes in the object store."""
    signals = [signal for row in rows for signal in row]
    return Sent(sum(s.num_bytes for s in signals), stored_bytes(list(rows)), len(signals))


def stored_bytes(value: Any) -> int:
    """The size that Ray itself tells of an object."""
    reference = ray.put(value)
    size: int = get_local_object_locations([reference])[reference]["object_size"]
    return size


def _documents() -> list[Document]:
    texts = [d.content.decode() for d in load_documents(["asset:toy/held_out.jsonl"])]
    joined = " ".join(texts)
    pieces = [joined[n * CHARACTERS : (n + 1) * CHARACTERS] for n in range(NUM_DOCUMENTS)]
    return [text_document(f"wire/{n}", piece) for n, piece in enumerate(pieces)]


if __name__ == "__main__":
    main()
