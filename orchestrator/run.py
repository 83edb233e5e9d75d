"""A run from start to end: the distilled arm, the arm it is compared with, the summary."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tqdm.auto import tqdm

from losses.document import Document
from orchestrator import cluster
from orchestrator.arm import Arm, Course, Progress, evaluate_arm, save_final, train_arm
from orchestrator.checkpoint import Inputs, describe_documents
from orchestrator.config import CompareConfig, RunConfig, TrainConfig
from orchestrator.data import prepare
from orchestrator.errors import RankLost
from orchestrator.evaluation import by_data_set, lead
from orchestrator.gap import gaps_recovered
from orchestrator.gates.arm import check_arm
from orchestrator.interruption import stop_on_signals
from orchestrator.outcome import Outcome, load_before, save_before, save_outcome
from orchestrator.placement import placed
from orchestrator.planning.actual import against_plan, measure
from orchestrator.processes import Run, Teachers, started_arm, started_teachers
from orchestrator.run_folder import (
    folder_to_resume,
    locked,
    open_run_folder,
    renew_run_folder,
)
from orchestrator.setup import STUDENT, Setup, set_up
from orchestrator.signal_cache.record import records_locked
from orchestrator.starting_point import StartingPoint, check_resumable, starting_point
from orchestrator.summary import BitsPerByte, Summary
from teachers.evaluation import bits_per_byte

log = logging.getLogger(__name__)


def train(config: RunConfig, *, overwrite: bool = False, resume: bool = False) -> Summary:
    """Train as the run file says; write everything into its ``output_dir``.

    Args:
        config: the run file.
        overwrite: move what ``output_dir`` holds aside and start anew.
        resume: continue the run in ``output_dir`` from its latest checkpoint.

    Raises:
        ConfigError: the run file or its data are wrong (before any weight is loaded).
        ResourcesError: the machine lacks what is asked for.
        TrainingDiverged: the loss is not finite.
        WorkerLost: a process died or fell silent.
        Interrupted: SIGTERM or Ctrl-C; what was trained is saved.
    """
    start = time.perf_counter()
    setup = set_up(config)
    inputs, validation = inputs_of(setup), validation_documents(config, setup)
    folder = folder_to_resume(config) if resume else open_run_folder(config, overwrite=overwrite)
    with locked(folder), records_locked(config):
        if resume:
            check_resumable(folder, config, inputs)
            renew_run_folder(folder, config)
        with cluster.running(config) as machine, stop_on_signals() as stop:
            run = Run(setup, inputs, validation, machine, stop)
            distilled = run_arm(config, run, folder, "distilled")
            ce_only = None
            if config.compare.ce_only is not None:
                ce_only = run_arm(ce_only_config(config), run, folder / "ce_only", "ce_only")
        summary = summarize(config, setup, distilled, ce_only, time.perf_counter() - start)
        summary = replace(summary, plan=against_plan(config, setup, folder, distilled.tally))
        summary.save(folder)
    return summary


def inputs_of(setup: Setup) -> Inputs:
    """What must be the same when the run is resumed, beside the run file."""
    documents = {
        "data.train": setup.train.documents,
        "data.validation": setup.validation,
        "data.held_out": setup.held_out.documents,
    }
    found = {name: describe_documents(entries) for name, entries in documents.items()}
    found |= {f"tokenizer of {t.name}": t.fingerprint for t in setup.tokenizers}
    return Inputs(found | {f"model of {name}": text for name, text in setup.models.items()})


def validation_documents(config: RunConfig, setup: Setup) -> Sequence[Document]:
    """The documents that choose the best checkpoint; none if that is not asked for."""
    if not config.train.keep_best:
        return ()
    return prepare(setup.validation, setup.tokenizers[:1], config.data.max_length).documents


def run_arm(config: RunConfig, run: Run, folder: Path, name: str) -> Outcome:
    """Start the processes of one arm, score, train, score, save, stop them.

    An arm that is finished is not run again; one that was interrupted goes on where it stood. If a
    rank dies, the ranks start again, as often as ``faults.student_restarts`` says.
    """
    course = Course(config, folder, run.inputs, run.setup.train.documents, run.validation, run.stop)
    point = starting_point(course)
    if point.finished is not None:
        return point.finished
    with (
        placed(config, run.machine, teachers=run.memory is None) as placement,
        started_teachers(course, run, point, placement) as teachers,
    ):
        for attempt in attempts(config.faults.student_restarts, teachers):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    point = starting_point(course)
                with started_arm(course, run, point, placement, teachers) as arm:
                    outcome = finish(arm, course, run, point, teachers, name)
    save_outcome(folder, outcome)
    return outcome


def attempts(restarts: int, teachers: Teachers) -> Retrying:
    """Tries of an arm: another one where a rank died while there are teachers to go on with."""

    def again(error: BaseException) -> bool:
        return isinstance(error, RankLost) and not teachers.stopped

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s; THE RANKS START AGAIN, the teachers stay", error)

    return Retrying(
        retry=retry_if_exception(again),
        stop=stop_after_attempt(1 + restarts),
        before_sleep=tell,
        reraise=True,
    )


def finish(
    arm: Arm, course: Course, run: Run, point: StartingPoint, teachers: Teachers, name: str
) -> Outcome:
    """From the starting point to the scores after the last step; then no teacher is left."""
    config, folder = course.config, course.folder
    held_out, limit = run.setup.held_out.documents, config.train.timeout_s
    if point.checkpoint is None:
        check_arm(arm, run.setup.train.documents, config, folder)
        known = run.before or evaluate_arm(arm, held_out, limit)
        save_before(folder, {name: known[name] for name in (*arm.teachers, STUDENT)})
    before = load_before(folder)
    with progress_bar(name, config.train, point.position.step) as progress:
        tally = train_arm(arm, course, point.position, progress)
    if run.keep_models:
        save_final(arm, course)
    measure(arm.teachers, arm.students, limit).save(folder)
    teachers.stop()
    after = evaluate_arm(replace(arm, teachers={}), held_out, limit)["student"]
    student = before.pop("student")
    return Outcome(config.train.max_steps, run.inputs, student, after, before, tally)


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
def progress_bar(name: str, config: TrainConfig, done: int) -> Iterator[Progress]:
    """A bar with loss, tokens/s, each teacher's share of the gradient and waiting time."""
    total = config.max_steps
    with tqdm(total=total, initial=done, desc=name, unit="step", dynamic_ncols=True) as bar:
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
    tally = distilled.tally
    arms = {"distilled": distilled} | ({"ce_only": ce_only} if ce_only else {})
    after = {name: bits_per_byte(arm.after) for name, arm in arms.items()}
    bits = BitsPerByte(
        before=bits_per_byte(distilled.before),
        distilled=after["distilled"],
        ce_only=after.get("ce_only"),
        teachers={name: bits_per_byte(rows) for name, rows in distilled.teachers.items()},
    )
    return Summary(
        bits_per_byte=bits,
        by_data_set={n: by_data_set(documents, rows) for n, rows in (scores | teachers).items()},
        lead=lead(distilled.after, ce_only.after) if ce_only else None,
        gap_recovered=gaps_recovered(config, bits.before, after, bits.teachers),
        gradient_share={n: total / tally.num_shares for n, total in tally.shares.items()},
        waited_s=tally.waited,
        seconds=seconds,
        training_s={name: arm.tally.seconds for name, arm in arms.items()},
        tokens_per_s=tally.num_tokens / tally.seconds,
        cpu_percent=tally.cpu_seconds / tally.seconds,
        num_steps=config.train.max_steps,
        held_out_bytes=setup.held_out.num_scored_bytes,
        left_out=setup.train.quarantined,
        checkpoint=str(Path(config.output_dir).absolute() / "final"),
    )
