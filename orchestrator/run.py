"""A run from start to end: the distilled arm, the arm it is compared with, the summary."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from orchestrator import actors, checkpoint, cluster
from orchestrator.arm import Arm, Progress, Training, evaluate_arm, train_arm
from orchestrator.cluster import Machine
from orchestrator.config import CompareConfig, RunConfig, TrainConfig
from orchestrator.evaluation import by_data_set, lead
from orchestrator.run_folder import open_run_folder
from orchestrator.setup import Setup, set_up
from orchestrator.specs import student_spec, teacher_specs
from orchestrator.summary import BitsPerByte, Summary
from teachers.evaluation import DocumentScore, bits_per_byte

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """One arm's scores on the held-out documents, before and after, and its training."""

    before: list[DocumentScore]
    after: list[DocumentScore]
    teachers: dict[str, list[DocumentScore]]
    training: Training


def train(config: RunConfig, *, overwrite: bool = False) -> Summary:
    """Train as the run file says; write everything into its ``output_dir``.

    Raises:
        ConfigError: the run file or its data are wrong (before any weight is loaded).
        ResourcesError: the machine lacks what is asked for.
        TrainingDiverged: the loss is not finite.
        WorkerLost: a process died or fell silent.
    """
    start = time.perf_counter()
    setup = set_up(config)
    folder = open_run_folder(config, overwrite=overwrite)
    with cluster.running(config) as machine:
        distilled = run_arm(config, setup, machine, folder, "distilled")
        ce_only = None
        if config.compare.ce_only is not None:
            ce_only = run_arm(ce_only_config(config), setup, machine, folder / "ce_only", "ce_only")
    summary = summarize(config, setup, distilled, ce_only, time.perf_counter() - start)
    summary.save(folder)
    return summary


def run_arm(config: RunConfig, setup: Setup, machine: Machine, folder: Path, name: str) -> Outcome:
    """Start the processes of one arm, score, train, score, save, stop them."""
    held_out, limit = setup.held_out.documents, config.train.timeout_s
    with start_arm(config, setup, machine, folder) as arm:
        before = evaluate_arm(arm, held_out, limit)
        with progress_bar(name, config.train) as progress:
            training = train_arm(arm, setup.train.documents, config, folder, progress)
        state = {"step": config.train.max_steps}
        checkpoint.save(arm.students, folder / "final", state, limit)
        actors.kill(arm.teachers.values())
        after = evaluate_arm(replace(arm, teachers={}), held_out, limit)
    teachers = {teacher.name: before[teacher.name] for teacher in config.teachers}
    return Outcome(before["student"], after["student"], teachers, training)


@contextmanager
def start_arm(config: RunConfig, setup: Setup, machine: Machine, folder: Path) -> Iterator[Arm]:
    """Teachers and student ranks of one arm; they are stopped at the end."""
    vocabularies = {tokenizer.name: tokenizer.vocabulary for tokenizer in setup.tokenizers}
    student = student_spec(config, machine, vocabularies)
    names = ("ce", *(f"{term.teacher}/{term.method_name}" for term in student.terms))
    teachers, loading = actors.start_teachers(teacher_specs(config, machine), config, machine)
    students: dict[str, Any] = {}
    try:
        students, preparing = actors.start_students(student, config, machine, folder)
        actors.collect(loading | preparing, config.train.timeout_s, "loading its model")
        _send_heads(config, teachers, students)
        yield Arm(students, teachers, names)
    finally:
        actors.kill([*teachers.values(), *students.values()])


def _send_heads(config: RunConfig, teachers: dict[str, Any], students: dict[str, Any]) -> None:
    """Each head goes from its teacher to the ranks through the object store, once."""
    for teacher in config.teachers:
        if any(entry.method.needs_teacher_head for entry in teacher.methods):
            head = teachers[teacher.name].head_weights.remote()
            pending = {n: s.set_head.remote(teacher.name, head) for n, s in students.items()}
            actors.collect(pending, config.train.timeout_s, f"receiving {teacher.name}'s head")


def ce_only_config(config: RunConfig) -> RunConfig:
    """The same student, steps, data and seed without teachers, at its own learning rate.

    Raises:
        ValueError: the run file asks for no such arm.
    """
    if config.compare.ce_only is None:
        raise ValueError("compare.ce_only is not set")
    rate = config.compare.ce_only.learning_rate
    train_config: TrainConfig = config.train.model_copy(update={"learning_rate": rate})
    changes = {"teachers": (), "train": train_config, "compare": CompareConfig()}
    mixture = config.mixture.model_copy(update={"ce_weight": config.mixture.ce_weight or 1.0})
    return config.model_copy(update={**changes, "mixture": mixture})


@contextmanager
def progress_bar(name: str, config: TrainConfig) -> Iterator[Progress]:
    """A bar with loss, tokens/s, each teacher's share of the gradient and waiting time."""
    with tqdm(total=config.max_steps, desc=name, unit="step", dynamic_ncols=True) as bar:
        shown: dict[str, str] = {}

        def progress(step: int, values: dict[str, float]) -> None:
            shown.update(_shown(values))
            bar.set_postfix(shown, refresh=False)
            bar.update()

        yield progress


def _shown(values: dict[str, float]) -> dict[str, str]:
    found = {
        "loss": f"{values['loss']:.3f}",
        "tok/s": f"{values['perf/tokens_per_s']:.0f}",
        "wait": f"{values['timing/teacher_wait']:.1f}s",
    }
    for name, value in values.items():
        if name.endswith("/gradient_share"):
            found[name.split("/")[1]] = f"{value:.0%}"
    return found


def summarize(
    config: RunConfig, setup: Setup, distilled: Outcome, ce_only: Outcome | None, seconds: float
) -> Summary:
    """Put the arms side by side."""
    documents = setup.held_out.documents
    scores = {"before": distilled.before, "distilled": distilled.after}
    if ce_only is not None:
        scores["ce_only"] = ce_only.after
    teachers = {f"teacher {name}": rows for name, rows in distilled.teachers.items()}
    training = distilled.training
    arms = {"distilled": distilled} | ({"ce_only": ce_only} if ce_only else {})
    return Summary(
        bits_per_byte=BitsPerByte(
            before=bits_per_byte(distilled.before),
            distilled=bits_per_byte(distilled.after),
            ce_only=bits_per_byte(ce_only.after) if ce_only else None,
            teachers={name: bits_per_byte(rows) for name, rows in distilled.teachers.items()},
        ),
        by_data_set={n: by_data_set(documents, rows) for n, rows in (scores | teachers).items()},
        lead=lead(distilled.after, ce_only.after) if ce_only else None,
        gradient_share=training.shares,
        waited_s=training.waited,
        seconds=seconds,
        training_s={name: arm.training.seconds for name, arm in arms.items()},
        tokens_per_s=training.num_tokens / training.seconds,
        cpu_percent=training.cpu_percent,
        num_steps=config.train.max_steps,
        held_out_bytes=setup.held_out.num_scored_bytes,
        left_out=setup.train.quarantined,
        checkpoint=str(Path(config.output_dir).absolute() / "final"),
    )
