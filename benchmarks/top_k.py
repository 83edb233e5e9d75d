"""How many teacher tokens to list: the loss at each k against the loss with all of them.

SmolLM2 teaches Gemma 3. What k misses is hidden in the lump of unlisted tokens.
``python -m benchmarks.top_k``, after ``tutelage assets``.
"""

from collections.abc import Sequence

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
from orchestrator.data import load_documents
from orchestrator.projections import projection_of
from teachers.backends.transformers import LanguageModel
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

TEACHER, STUDENT = "asset:smollm2-135m-instruct", "asset:gemma-3-270m"
DATA, NUM_DOCUMENTS, NUM_CHARACTERS = "asset:prose/held_out.jsonl", 6, 300
CANDIDATES = (16, 32, 64, 128, 256, 512)
EVERYTHING = 2**20


def main() -> None:
    """Print a row for each method."""
    torch.set_num_threads(1)
    teacher, student = (_load(name) for name in (TEACHER, STUDENT))
    texts = [d.content.decode()[:NUM_CHARACTERS] for d in load_documents([DATA])[:NUM_DOCUMENTS]]
    documents = [text_document(f"text {i}", text) for i, text in enumerate(texts)]
    pair = Pair(
        student.tokenizer.vocabulary,
        teacher.tokenizer.vocabulary,
        projection=projection_of(student.tokenizer, teacher.tokenizer, ProjectionOptions()),
    )
    with torch.no_grad():
        of_teacher = [teacher.predictions([document])[0] for document in documents]
        of_student = [student.predictions([document])[0] for document in documents]
        sides = list(zip(of_student, of_teacher, documents, strict=True))
        rows = [_row(name, sides, pair) for name in ("p_kl", "h_kl", "gold", "uld")]
    show("Part of the loss that the k listed tokens miss", rows)


def _row(
    name: str, sides: Sequence[tuple[Prediction, Prediction, Document]], pair: Pair
) -> dict[str, object]:
    values = [_mean(name, k, sides, pair) for k in (*CANDIDATES, EVERYTHING)]
    missed = 100 * (1 - np.array(values[:-1]) / values[-1])
    cells = {f"k = {k}": f"{part:.2f} %" for k, part in zip(CANDIDATES, missed, strict=True)}
    return {"method": name, "all, a chunk": f"{values[-1]:.4f}"} | cells


def _mean(
    name: str, k: int, sides: Sequence[tuple[Prediction, Prediction, Document]], pair: Pair
) -> float:
    method = method_class(name)(k=k, precision="float32")
    total, units = 0.0, 0
    for student, teacher, document in sides:
        term = method.loss(student, method.signal(teacher, document), pair, nn.ModuleDict())
        total, units = total + term.total.item(), units + term.units
    return total / units


def _load(reference: str) -> LanguageModel:
    source = ModelSource(str(resolve(reference)), dtype="float32")
    return LanguageModel.load(source, Tokenizer.load(source, reference))


if __name__ == "__main__":
    main()
