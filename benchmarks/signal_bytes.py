"""Bytes on the wire for each token and method, against full logits in bf16."""

import pickle

from benchmarks.table import show
from losses.methods import method_class, method_names
from orchestrator.assets import resolve
from orchestrator.data import load_documents
from teachers.backends.transformers import LanguageModel
from teachers.source import ModelSource
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer

MODELS = ("asset:toy/bytelevel", "asset:smollm2-135m-instruct")
"""The toy is always there; the real one only after ``tutelage assets``."""


def main() -> None:
    """Print a row for each model and method."""
    documents = load_documents(["asset:toy/held_out.jsonl"])[:8]
    rows = []
    for name in MODELS:
        try:
            source = ModelSource(str(resolve(name)), dtype="bfloat16")
        except (FileNotFoundError, ValueError) as error:
            print(f"{name} left out: {error}")
            continue
        model = LanguageModel.load(source, Tokenizer.load(source, name))
        methods = [method_class(method)() for method in method_names()]
        num_tokens = sum(len(tokens) for tokens in model.tokenizer.encode(documents))
        logits = 2 * len(model.tokenizer.vocabulary)
        for method, *signals in zip(
            method_names(), *Teacher(model, methods).signals(documents), strict=True
        ):
            fields = sum(signal.num_bytes for signal in signals) / num_tokens
            wire = sum(len(pickle.dumps(signal, 5)) for signal in signals) / num_tokens
            rows.append(
                {
                    "teacher": name,
                    "method": method,
                    "bytes/token": f"{fields:.1f}",
                    "pickled": f"{wire:.1f}",
                    "full logits, bf16": logits,
                    "ratio": f"1 : {logits / fields:.0f}",
                }
            )
    show("Signals on the wire", rows)


if __name__ == "__main__":
    main()
