"""Are two teachers better than the better one? Arms × seeds of the demo's recipe.

    python -m benchmarks.two_teachers --seeds 0 1 2 --out results.jsonl
    python -m benchmarks.two_teachers --arms both --rates 2e-4 4e-4 --split validation

The parts are those of ``tutelage train``: teachers, trainer, DeepSpeed engine; only Ray is left
out, and each document's signals are computed once and used by every arm. One JSON line a run.
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import show
from losses.document import Document
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig, load_run
from orchestrator.data import documents_of_step, load_documents, prepare
from orchestrator.evaluation import by_data_set
from orchestrator.run import ce_only_config
from orchestrator.setup import Setup, set_up
from orchestrator.specs import student_spec, teacher_specs
from orchestrator.student.deepspeed import prepare_environment
from orchestrator.student.worker import build_trainer, join_group
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.evaluation import bits_per_byte
from teachers.head_weights import HeadWeights

ARMS = {"ce": (), "smollm2": ("smollm2",), "gemma": ("gemma",), "both": ("smollm2", "gemma")}


class Signals:
    """Every training document's signals from every teacher, and the teachers' heads."""

    def __init__(self, config: RunConfig, documents: Sequence[Document]) -> None:
        self.heads: dict[str, HeadWeights] = {}
        self._found: dict[tuple[str, str], DocumentSignals] = {}
        for spec in teacher_specs(config, Machine(2, 0.0)):
            teacher = spec.build()
            for document, signals in zip(documents, teacher.signals(documents), strict=True):
                self._found[spec.name, document.name] = signals
            if any(method.needs_teacher_head for method in spec.methods):
                self.heads[spec.name] = teacher.head_weights()
            del teacher
            gc.collect()

    def of(self, document: Document, teachers: Sequence[str]) -> DocumentSignals:
        """The document's signals, in the order of these teachers' terms."""
        return sum((self._found[name, document.name] for name in teachers), ())


def arm_config(config: RunConfig, arm: str, seed: int, rate: float | None) -> RunConfig:
    """The run file with only this arm's teachers."""
    if arm == "ce":
        config = ce_only_config(config)
    kept = tuple(teacher for teacher in config.teachers if teacher.name in ARMS[arm])
    changes: dict[str, Any] = {"seed": seed} | ({} if rate is None else {"learning_rate": rate})
    train = config.train.model_copy(update=changes)
    return config.model_copy(update={"teachers": kept, "train": train})


def run(
    config: RunConfig, setup: Setup, signals: Signals, evaluated: Sequence[Document]
) -> tuple[list[DocumentScore], dict[str, float]]:
    """Train one student; its scores and the mean gradient shares."""
    vocabularies = {tokenizer.name: tokenizer.vocabulary for tokenizer in setup.tokenizers}
    machine = Machine(torch.get_num_threads(), 0.0)
    widths = {tokenizer.name: tokenizer.hidden_size for tokenizer in setup.tokenizers}
    spec = student_spec(config, machine, vocabularies, setup.projections, widths)
    trainer = build_trainer(spec, "cpu")
    names = [teacher.name for teacher in config.teachers]
    for name in set(names) & set(signals.heads):
        head = signals.heads[name].head(torch.device("cpu"))
        trainer.engine.module.attach_head(name, head)
    shares: list[tuple[float, ...]] = []
    for step in range(config.train.max_steps):
        batch = documents_of_step(
            setup.train.documents, step, config.train.global_batch, config.train.seed
        )
        report = trainer.step(
            batch,
            [signals.of(document, names) for document in batch],
            sum(document.num_scored_bytes for document in batch),
            measure_shares=step % max(1, config.train.gradient_share_steps) == 0,
        )
        shares += [report.shares] if report.shares else []
    means = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
    return trainer.evaluate(evaluated), dict(zip(["ce", *names], means, strict=True))


def main() -> None:
    """Run the arms asked for, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-file", default="quickstart.yaml")
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[None])
    parser.add_argument("--split", choices=["validation", "held_out"], default="held_out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for tutelage train")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        prepare_environment("cpu", Path(folder))
        join_group(0, 1, ("127.0.0.1", 29511))
        show("Held-out bits per byte", compare(options))


def compare(options: argparse.Namespace) -> list[dict[str, object]]:
    """One row a run; each is also a JSON line in ``--out``."""
    config = load_run(options.run_file, options.overrides)
    setup = set_up(config)
    files = config.data.validation if options.split == "validation" else config.data.held_out
    documents = load_documents(files, config.data.held_out_limit)
    evaluated = prepare(documents, setup.tokenizers, config.data.max_length).documents
    signals = Signals(config, setup.train.documents)
    rows = []
    plan = [(a, s, r) for s in options.seeds for a in options.arms for r in options.rates]
    for arm, seed, rate in plan:
        chosen = arm_config(config, arm, seed, rate)
        scores, shares = run(chosen, setup, signals, evaluated)
        row = {
            "arm": arm,
            "seed": seed,
            "learning_rate": chosen.train.learning_rate,
            "bits_per_byte": round(bits_per_byte(scores), 4),
            "by_data_set": {k: round(v, 4) for k, v in by_data_set(evaluated, scores).items()},
            "shares": {k: round(v, 3) for k, v in shares.items()},
        }
        if options.out:
            with options.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row | {"split": options.split}) + "\n")
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
