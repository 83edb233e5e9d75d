"""How many teacher tokens to list: the loss at each k against the loss with all of them.

SmolLM2 teaches the quick start's student, which shares its tokenizer, so that "all" is the exact
KL; and Gemma 3 teaches it, where "all" means little: see docs/methods.md. What k misses is hidden
in the lump of unlisted tokens. ``python -m benchmarks.top_k``, after ``tutelage assets``.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.table import show
from losses.alignment.projection import ProjectionOptions
from losses.base import Pair
from losses.document import Document, text_document
from losses.methods import method_class
from losses.prediction import Prediction
from orchestrator.assets import resolve
from orchestrator.config import load_run
from orchestrator.data import load_documents
from orchestrator.projections import projection_of
from orchestrator.student.layers import keep_layers, kept_layers, layer_list
from teachers.backends.transformers import LanguageModel
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

TEACHERS = {"SmolLM2": "asset:smollm2-135m-instruct", "Gemma 3": "asset:gemma-3-270m"}
DATA, NUM_DOCUMENTS, NUM_CHARACTERS = "asset:prose/held_out.jsonl", 10, 300
METHODS = ("p_kl",)
CANDIDATES = (16, 64, 256, 1024, 2048, 4096)
EVERYTHING = 2**20


def main() -> None:
    """Print a row for each teacher and method."""
    torch.set_num_threads(1)
    texts = [d.content.decode()[:NUM_CHARACTERS] for d in load_documents([DATA])[:NUM_DOCUMENTS]]
    documents = [text_document(f"text {i}", text) for i, text in enumerate(texts)]
    config = load_run("quickstart.yaml").student
    student = _load(config.init)
    keep_layers(
        student.model, kept_layers(len(layer_list(student.model)), None, config.drop_layers)
    )
    with torch.no_grad():
        for name, reference in TEACHERS.items():
            teacher = _load(reference)
            pair = _pair(student, teacher)
            values = {method: np.zeros(len(CANDIDATES) + 1) for method in METHODS}
            for document in documents:
                sides = [model.predictions([document])[0] for model in (student, teacher)]
                for method in METHODS:
                    values[method] += _losses(method, sides[0], sides[1], document, pair)
            rows = [_row(method, found) for method, found in values.items()]
            show(f"{name} teaches the student: part of the loss that k tokens miss", rows)


def _pair(student: LanguageModel, teacher: LanguageModel) -> Pair:
    tokenizers = (student.tokenizer, teacher.tokenizer)
    projection = projection_of(*tokenizers, ProjectionOptions())
    return Pair(tokenizers[0].vocabulary, tokenizers[1].vocabulary, projection=projection)


def _losses(
    name: str, student: Prediction, teacher: Prediction, document: Document, pair: Pair
) -> np.ndarray:
    """The document's total in nats at each k, and with all tokens."""
    found = []
    for k in (*CANDIDATES, EVERYTHING):
        method = method_class(name)(k=k, precision="float32")
        signal = method.signal(teacher, document)
        found.append(method.loss(student, signal, pair, nn.ModuleDict()).total.item())
    return np.array(found)


def _row(name: str, values: np.ndarray) -> dict[str, object]:
    missed = 100 * (1 - values[:-1] / values[-1])
    cells = {f"k = {k}": f"{part:.2f} %" for k, part in zip(CANDIDATES, missed, strict=True)}
    return {"method": name, "all tokens, nats": f"{values[-1]:.1f}"} | cells


def _load(reference: str) -> LanguageModel:
    source = ModelSource(str(resolve(reference)), dtype="float32")
    return LanguageModel.load(source, Tokenizer.load(source, reference))


if __name__ == "__main__":
    main()
