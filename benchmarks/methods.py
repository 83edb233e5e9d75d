"""Every method with two real teachers: bytes a token, time of both halves, memory, what it teaches.

    tutelage assets
    tutelage experiment experiments/methods_gemma.yaml
    tutelage experiment experiments/methods_smollm2.yaml
    python -m benchmarks.methods runs/experiments/methods_gemma runs/experiments/methods_smollm2

The student is the quick start's; every method has its default options. One thread, bfloat16
models, seconds of the processor for one document of about 150 tokens. "teacher" is what the
method's signal adds to the teacher's forward pass; "ahead" is done at the student before the step;
"loss" is forward and backward down to the student's hidden states. Without experiments, the last
columns are left out.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.losses import MEBIBYTE, peak_memory, reset_peak_memory
from benchmarks.table import show
from losses.alignment.projection import ProjectionOptions
from losses.base import Method, Pair
from losses.document import Document, text_document
from losses.methods import method_class, method_names
from losses.prediction import Prediction
from losses.signals import Signal
from orchestrator.config import load_run
from orchestrator.data import load_documents
from orchestrator.projections import projection_of
from orchestrator.sources import student_source, teacher_source
from orchestrator.student.layers import keep_layers, kept_layers, layer_list
from teachers.backends.transformers import LanguageModel
from teachers.inside import encode_inside
from teachers.source import ModelSource
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer

RUN, DATA = "quickstart.yaml", "asset:prose/held_out.jsonl"
NUM_DOCUMENTS, NUM_CHARACTERS = 4, 650


@dataclass(frozen=True)
class Cost:
    """Bytes a teacher token, milliseconds a document, bytes of memory above the inputs."""

    signal: float
    teacher: float
    ahead: float
    loss: float
    peak: int


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", type=Path, nargs="*", help="finished experiments' folders")
    taught = _taught(parser.parse_args().experiments)
    torch.set_num_threads(1)
    texts = [d.content.decode()[:NUM_CHARACTERS] for d in load_documents([DATA])[:NUM_DOCUMENTS]]
    documents = [text_document(f"text {i}", text) for i, text in enumerate(texts)]
    config = load_run(RUN)
    student = _load(student_source(config.student))
    depth = len(layer_list(student.model))
    keep_layers(student.model, kept_layers(depth, None, config.student.drop_layers))
    rows = []
    for entry in config.teachers:
        teacher = _load(teacher_source(entry, config.student))
        pair = _pair(student, teacher)
        forward = _milliseconds(lambda model=teacher: model.predictions(documents))
        for name in method_names():
            method = method_class(name)()
            try:
                method.check(pair)
            except ValueError as error:
                print(f"{name} with {entry.name} left out: {error}")
                continue
            cost = _measured(method, student, teacher, pair, documents)
            cost = replace(cost, teacher=cost.teacher - forward / len(documents))
            rows.append(_row(name, entry.name, cost) | taught(name, entry.name))
    show(f"Methods, {len(documents)} documents of {NUM_CHARACTERS} characters", rows)


def _row(method: str, teacher: str, cost: Cost) -> dict[str, object]:
    return {
        "method": method,
        "teacher": teacher,
        "B/token": f"{cost.signal:.0f}",
        "teacher, ms": f"{cost.teacher:.0f}",
        "ahead, ms": f"{cost.ahead:.0f}",
        "loss, ms": f"{cost.loss:.0f}",
        "peak, MiB": f"{cost.peak / MEBIBYTE:.0f}",
    }


def _taught(folders: Iterable[Path]) -> Callable[[str, str], dict[str, object]]:
    """Held-out bits per byte of a method's arms ``NAME-TEACHER`` and ``NAME-TEACHER-alone``."""
    arms: dict[str, str] = {}
    leads: dict[str, str] = {}
    for folder in folders:
        results = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        arms |= {arm["name"]: _number(arm["mean"]) for arm in results["arms"]}
        leads |= {d["arm"]: _number(d["over_seeds"], "+") for d in results["against_baseline"]}

    def columns(method: str, teacher: str) -> dict[str, object]:
        if not arms:
            return {}
        name = f"{method}-{teacher}"
        found = [arms.get(f"{name}-alone", ""), arms.get(name, ""), leads.get(name, "")]
        return dict(zip(("alone", "with CE", "lead over CE"), found, strict=True))

    return columns


def _number(mean: dict[str, float | None], sign: str = "") -> str:
    value, error = mean["value"], mean["standard_error"]
    return f"{value:{sign}.4f}" + ("" if error is None else f" ± {error:.4f}")


def _load(source: ModelSource) -> LanguageModel:
    return LanguageModel.load(source, Tokenizer.load(source, source.path))


def _pair(student: LanguageModel, teacher: LanguageModel) -> Pair:
    tokenizers = (student.tokenizer, teacher.tokenizer)
    return Pair(
        student.tokenizer.vocabulary,
        teacher.tokenizer.vocabulary,
        teacher_head=Teacher(teacher, []).head_weights().head(student.device),
        projection=projection_of(*tokenizers, ProjectionOptions()),
        encode_student=lambda texts: list(encode_inside(student.tokenizer, texts)),
        student_width=student.model.config.get_text_config().hidden_size,
        teacher_width=teacher.model.config.get_text_config().hidden_size,
        student_head=student.head,
    )


def _measured(
    method: Method,
    student: LanguageModel,
    teacher: LanguageModel,
    pair: Pair,
    documents: Sequence[Document],
) -> Cost:
    """In a process of its own, whose peak of memory is nobody else's."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: send.send(_cost(method, student, teacher, pair, documents))
    )
    process.start()
    send.close()
    cost: Cost = receive.recv()
    process.join()
    return cost


def _cost(
    method: Method,
    student: LanguageModel,
    teacher: LanguageModel,
    pair: Pair,
    documents: Sequence[Document],
) -> Cost:
    """Each half twice, the second time measured: the first one builds tables that stay."""
    shell = Teacher(teacher, [method])
    signals = [row[0] for row in shell.signals(documents)]
    of_teacher = _milliseconds(lambda: shell.signals(documents))
    num_tokens = sum(len(tokens) for tokens in teacher.encode(documents))
    views = student.encode(documents)
    masks = [t.scored(d.scored) for d, t in zip(documents, views, strict=True)]

    def ahead() -> list[Signal]:
        return [method.ahead(t, m, s, pair) for t, m, s in zip(views, masks, signals, strict=True)]

    ready = ahead()
    of_ahead = _milliseconds(ahead)
    modules = method.modules(pair)
    with torch.no_grad():
        states = [state.clone() for state in student.hidden_states(views)]
    seconds, peaks = [], []
    for _ in range(2):
        for document, view, state, signal in zip(documents, views, states, ready, strict=True):
            fresh = student.prediction(document, view, state.detach().requires_grad_())
            before = reset_peak_memory()
            start = time.process_time()
            _backward(method, fresh, signal, pair, modules)
            seconds.append(time.process_time() - start)
            peaks.append(peak_memory() - before)
    count = len(documents)
    return Cost(
        signal=sum(signal.num_bytes for signal in signals) / num_tokens,
        teacher=of_teacher / count,
        ahead=of_ahead / count,
        loss=1000 * float(np.mean(seconds[count:])),
        peak=int(np.median(peaks[count:])),
    )


def _backward(
    method: Method, student: Prediction, signal: Signal, pair: Pair, modules: torch.nn.ModuleDict
) -> None:
    total = method.loss(student, signal, pair, modules).total
    if total.requires_grad:
        total.backward()


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    main()
