"""A run that is killed anywhere and resumed is the run that was not, bit for bit.

The loop is the real one; actors are plain objects that answer at once, the engine is plain torch.
The student has dropout, so that random generators matter.
"""

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers.modeling_utils
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

import orchestrator.arm
import orchestrator.attendance
import orchestrator.checkpoint.write
import orchestrator.student.random_state
import orchestrator.student.state
from orchestrator.arm import Arm, Course, save_checkpoint, train_arm
from orchestrator.attendance import Attendance
from orchestrator.checkpoint import STATE, Inputs, checkpoint_to_resume, flaw_of
from orchestrator.config import RunConfig, parse_run
from orchestrator.errors import ConfigError, ResourcesError
from orchestrator.interruption import Interrupted, StopRequest
from orchestrator.outcome import Outcome, load_outcome, save_outcome
from orchestrator.starting_point import StartingPoint, check_resumable, starting_point
from orchestrator.student.arrival import Missing
from orchestrator.student.state import load_weights_into, restore, restore_random_state
from orchestrator.student.trainer import StudentTrainer
from orchestrator.student.worker import StudentWorker
from teachers.document_score import DocumentScore
from teachers.teacher import Teacher

NUM_DOCUMENTS = 5
BATCH = 2
NUM_STEPS = 5  # two epochs; the third step takes a document from each
DROPOUT = {"architecture": "gpt2", "resid_pdrop": 0.2, "embd_pdrop": 0.1}


class Killed(BaseException):
    """The process is gone: nobody may catch it."""


class Local:
    """An actor in this process: ``method.remote(…)`` answers at once."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._target, name))


class Speaking(Teacher):
    """A teacher without a process has no time of its own."""

    def worked(self) -> None:
        return None


class Student(StudentWorker):
    """A rank that notes its documents, and dies before or after the update of a step."""

    def __init__(self, trainer: StudentTrainer, die: tuple[str, int] | None) -> None:
        super().__init__(0, Path())
        self.trainer = trainer
        self.diary: list[tuple[str, ...]] = []
        self.die, self.steps = die, 0
        self.first, self.lost = 0, set()

    def step(self, documents, references, num_scored_bytes, *, measure_shares):
        self._maybe_die("before")
        self.diary.append(tuple(document.name for document in documents))
        found = super().step(documents, references, num_scored_bytes, measure_shares=measure_shares)
        self._maybe_die("after")
        self.steps += 1
        return found

    def save_state(self, folder: Path, step: int) -> None:
        super().save_state(folder, step)
        if self.die == ("saving", step):
            raise Killed

    def _maybe_die(self, moment: str) -> None:
        if self.die == (moment, self.steps):
            raise Killed

    def _get(self, teacher: str, reference: Any) -> Any:
        if (teacher, self.steps + self.first) in self.lost:
            return Missing(teacher, f"teacher {teacher} died", died=True)
        return reference


@dataclass
class Lab:
    """A small run that can be started anew or resumed as often as one likes."""

    distillation: Any
    config: RunConfig
    die: tuple[str, int] | None = None
    stop: StopRequest | None = None
    lost: frozenset[tuple[str, int]] = frozenset()
    """Teachers that are gone at a step."""

    def course(self, folder: Path) -> Course:
        documents = self.distillation.documents[:NUM_DOCUMENTS]
        stop = self.stop or StopRequest()
        validation = documents[:2] if self.config.train.keep_best else ()
        return Course(self.config, folder, Inputs({"data": "x"}), documents, validation, stop)

    def run(self, folder: Path) -> Student:
        """Start, or go on where the folder stands."""
        course = self.course(folder)
        point = starting_point(course)
        student = self.student(point)
        names = ("ce", "same/kl", "other/alm")
        models, methods = self.distillation.teachers, self.distillation.methods
        teachers = {name: Local(Speaking(m, [methods[name]])) for name, m in models.items()}
        student.first, student.lost = point.position.step, self.lost
        ranks = {"student/0": Local(student)}
        dropped = point.position.tally.dropped
        for name in dropped:
            del teachers[name]
        attendance = Attendance("drop", teachers, {}, ranks, dropped)
        attendance.begin()
        arm = Arm(ranks, teachers, names, attendance=attendance)
        train_arm(arm, course, point.position, lambda step, values: None)
        return student

    def student(self, point: StartingPoint) -> Student:
        set_seed(0)
        trainer = self.distillation.trainer(
            micro_batch=1, lr_schedule="linear", warmup_steps=2, weight_decay=0.1
        )
        if point.checkpoint is not None:
            torch.manual_seed(12345)  # a new process stands anywhere
            state = point.checkpoint / STATE
            load_weights_into(trainer.engine.module, state)
            restore(trainer.engine, state)
            restore_random_state(state, 0)
        return Student(trainer, self.die)


def config_of(**train: Any) -> RunConfig:
    sizes = {"max_steps": NUM_STEPS, "global_batch": BATCH, "micro_batch": 1, "seed": 3}
    return parse_run(
        {
            "student": {"init": "x"},
            "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"], "validation": ["v.jsonl"]},
            "train": sizes | {"save_steps": 1, "gradient_share_steps": 2} | train,
            "faults": {"teacher_lost": "drop"},
            "output_dir": "x",
        }
    )


@pytest.fixture(scope="module")
def small(distillation) -> Any:
    return distillation(student=DROPOUT)


@pytest.fixture(scope="module", autouse=True)
def answers_at_once() -> Iterator[None]:
    """There is nothing to wait for."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (orchestrator.arm, orchestrator.attendance):
            patch.setattr(module, "collect", lambda references, timeout_s, doing: dict(references))
        yield


@pytest.fixture(scope="module")
def lab(small) -> Callable[..., Lab]:
    """Build a lab; keys of ``train`` may be changed."""

    def build(**train: Any) -> Lab:
        return Lab(small, config_of(**train))

    return build


def steps_of(folder: Path) -> list[dict[str, float]]:
    """What a run wrote about each step, without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss", "grad_norm", "learning_rate", "num_tokens", "share", "kd_loss")
    return [{k: v for k, v in row.items() if k.endswith(kept)} for row in rows]


def same_student(ours: Student, theirs: Student) -> None:
    expected = theirs.trainer.engine.state_dict()
    for name, value in ours.trainer.engine.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def unbroken(lab, tmp_path_factory) -> tuple[Student, Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    return lab().run(folder), folder


@pytest.mark.parametrize("moment", ["before", "after", "saving"])
@pytest.mark.parametrize("step", range(NUM_STEPS))
def test_killed_at_any_step(lab, unbroken, tmp_path, moment, step):
    """Every step's documents and numbers are those of the run that was left in peace."""
    student, peaceful = unbroken
    run = lab()
    run.die = (moment, step + 1 if moment == "saving" else step)
    with pytest.raises(Killed):
        run.run(tmp_path / "run")
    saved = checkpoint_to_resume(tmp_path / "run")
    done = 0 if saved is None else int(saved.name.split("-")[1])
    assert done == step
    run.die = None
    resumed = run.run(tmp_path / "run")
    assert student.diary[done:] == resumed.diary
    assert steps_of(tmp_path / "run") == steps_of(peaceful)
    same_student(resumed, student)


@pytest.mark.parametrize("step", [1, 3])
def test_a_teacher_dropped_before_the_checkpoint_stays_dropped(lab, unbroken, tmp_path, step):
    """Lost at step 2; a run that is killed earlier or later drops it at the same step."""
    alone, run = lab(), lab()
    alone.lost = run.lost = frozenset({("other", 2)})
    whole = alone.run(tmp_path / "whole")
    rows = steps_of(tmp_path / "whole")
    assert rows[:2] == steps_of(unbroken[1])[:2]
    assert [row["teacher/other/alm/kd_loss"] > 0 for row in rows] == [True] * 2 + [False] * 3
    run.die = ("before", step)
    with pytest.raises(Killed):
        run.run(tmp_path / "run")
    run.die = None
    if step > 2:
        run.lost = frozenset()  # nobody asks it again
    resumed = run.run(tmp_path / "run")
    assert steps_of(tmp_path / "run") == rows
    same_student(resumed, whole)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert [row["teacher/same/kl/weight"] for row in written] == [1.0] * 2 + [3.0] * 3
    assert [row.get("teacher/other/dropped") for row in written] == [None] * 2 + [1.0] * 3


def test_the_documents_are_those_of_two_epochs(unbroken):
    names = [name for batch in unbroken[0].diary for name in batch]
    assert sorted(names[:NUM_DOCUMENTS]) == sorted(names[NUM_DOCUMENTS:])
    assert len(set(names)) == NUM_DOCUMENTS


def test_random_generators_matter(lab, unbroken, tmp_path, monkeypatch):
    """Without them the resumed run differs: the tests above can fail."""
    run = lab()
    run.die = ("before", 2)
    with pytest.raises(Killed):
        run.run(tmp_path / "run")
    run.die = None
    monkeypatch.setitem(globals(), "restore_random_state", lambda state, rank: None)
    run.run(tmp_path / "run")
    assert steps_of(tmp_path / "run")[:2] == steps_of(unbroken[1])[:2]
    assert steps_of(tmp_path / "run")[2] != steps_of(unbroken[1])[2]


def test_rare_checkpoints_repeat_steps_but_not_their_metrics(lab, unbroken, tmp_path):
    run = lab(save_steps=3)
    run.die = ("before", 4)
    with pytest.raises(Killed):
        run.run(tmp_path / "run")
    assert len(steps_of(tmp_path / "run")) == 4
    run.die = None
    resumed = run.run(tmp_path / "run")
    assert len(resumed.diary) == 2
    assert steps_of(tmp_path / "run") == steps_of(unbroken[1])
    assert len(list((tmp_path / "run").glob("metrics.cut-*"))) == 1


def test_longer_than_it_was_started(lab, unbroken, tmp_path):
    """The schedule here does not depend on the number of steps."""
    short, long = lab(max_steps=3), lab()
    short.run(tmp_path / "run")
    long.run(tmp_path / "run")
    assert steps_of(tmp_path / "run") == steps_of(unbroken[1])
    with pytest.raises(ConfigError, match=r"max_steps: 3, but .* stands at step 5"):
        short.run(tmp_path / "run")


def test_damaged_latest_still_gives_the_same_run(lab, unbroken, tmp_path):
    run = lab(max_steps=3)
    run.run(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-3" / STATE / "exp_avg.safetensors").write_bytes(b"half")
    lab().run(tmp_path / "run")
    assert steps_of(tmp_path / "run") == steps_of(unbroken[1])
    assert len(list((tmp_path / "run").glob("checkpoint-3.aside-*"))) == 1


def test_other_data_is_refused(lab, tmp_path):
    run = lab(max_steps=2)
    run.run(tmp_path / "run")
    other = replace(run.course(tmp_path / "run"), inputs=Inputs({"data": "y"}))
    with pytest.raises(ConfigError, match=r"reads has changed.*\n  data: x -> y\n"):
        starting_point(other)
    with pytest.raises(ConfigError, match="data: x -> y"):
        check_resumable(tmp_path / "run", run.config, Inputs({"data": "y"}))


def test_nothing_to_resume_is_said_early(lab, tmp_path):
    run = lab()
    with pytest.raises(ConfigError, match=r"holds no checkpoint .*save_steps.*--overwrite"):
        check_resumable(tmp_path, run.config, Inputs({"data": "x"}))


def test_finished_arm_is_not_trained_again(lab, tmp_path):
    run = lab()
    course = run.course(tmp_path)
    score = [DocumentScore(0.1 + 0.2, 3, 2)]
    tally = course.start().tally
    outcome = Outcome(NUM_STEPS, course.inputs, score, score, {"gemma": score}, tally)
    save_outcome(tmp_path, outcome)
    assert load_outcome(tmp_path) == outcome
    assert starting_point(course).finished == outcome
    check_resumable(tmp_path, run.config, course.inputs)
    longer = replace(course, config=config_of(max_steps=NUM_STEPS + 1))
    assert starting_point(longer).finished is None
    with pytest.raises(ConfigError, match="no checkpoint to resume"):
        check_resumable(tmp_path, longer.config, course.inputs)


def test_best_checkpoint_is_measured_and_kept(lab, tmp_path):
    lab(keep_best=True, save_total_limit=1).run(tmp_path / "run")
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    kept = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert kept == {best["checkpoint"], f"checkpoint-{NUM_STEPS}"}
    assert 1 < best["validation_bits_per_byte"] < 20


def test_measuring_the_best_changes_nothing(lab, unbroken, tmp_path):
    lab(keep_best=True).run(tmp_path / "run")
    assert steps_of(tmp_path / "run") == steps_of(unbroken[1])


def test_full_disk_is_noticed_before_training(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(ResourcesError, match=r"needs about .* bytes, but only 1,000,000 are free"):
        lab().run(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


class TestStop:
    def test_saves_after_the_step_and_goes_on(self, lab, unbroken, tmp_path):
        run = lab(save_steps=0)
        run.stop = StopRequest()
        plain = Student.step

        def asked(student, *arguments, **options):
            if len(student.diary) == 2:
                run.stop.signum = signal.SIGTERM
            return plain(student, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Student, "step", asked)
            with pytest.raises(Interrupted, match=r"SIGTERM: checkpoint-3 is saved.*--resume") as e:
                run.run(tmp_path / "run")
        assert e.value.exit_code == 143
        run.stop = None
        run.run(tmp_path / "run")
        assert steps_of(tmp_path / "run") == steps_of(unbroken[1])
        assert [p.name for p in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]

    def test_before_the_first_step(self, lab, tmp_path):
        run = lab()
        run.stop = StopRequest(signal.SIGINT)
        with pytest.raises(Interrupted, match="nothing was trained since the start") as caught:
            run.run(tmp_path / "run")
        assert caught.value.exit_code == 130


WRITERS = [
    (os, "fsync"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "write_text"),
    (orchestrator.student.state, "save_file"),
    (orchestrator.student.random_state, "save_file"),
    (transformers.modeling_utils, "safe_save_file"),
]
"""Through these everything that is saved reaches the disk."""


class Trap:
    """Counts what touches the disk while saving; at one call it writes half, then acts."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at, self.act, self.calls = at, act, 0

    def set(self, patch: pytest.MonkeyPatch) -> None:
        for owner, name in WRITERS:
            patch.setattr(owner, name, self._guarded(getattr(owner, name)))

    def _guarded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls != self.at:
                return original(*arguments, **options)
            if original.__name__ in ("write_text", "save_file"):
                original(*arguments, **options)
                path = next(a for a in arguments if isinstance(a, str | Path))
                os.truncate(path, Path(path).stat().st_size // 2)
            return self.act()

        return call


def no_space() -> None:
    raise OSError(28, "No space left on device")


def die() -> None:
    os._exit(9)


class TestSaving:
    """The last good checkpoint stays loadable, wherever saving the next one is cut short."""

    @pytest.fixture
    def saved(self, lab, tmp_path) -> tuple[Callable[[Path], None], Path]:
        """Saves checkpoint-2 with limit 1 beside a checkpoint-1 into any copy of a folder."""
        run = lab(max_steps=1, save_total_limit=1)
        student = run.run(tmp_path / "start")
        arm = Arm({"student/0": Local(student)}, {}, ("ce",))

        def save(folder: Path) -> None:
            course = run.course(folder)
            save_checkpoint(arm, course, 2, course.start().tally)

        return save, tmp_path / "start"

    def attempts(
        self, save: Callable[[Path], bool], start: Path, act: Callable[[], None]
    ) -> Iterator[Path]:
        """One folder for each call that could be the last, until saving comes to its end."""
        for at in range(1, 500):
            folder = start.with_name(f"attempt-{at}")
            shutil.copytree(start, folder)
            with pytest.MonkeyPatch.context() as patch:
                Trap(at, act).set(patch)
                finished = save(folder)
            if finished:
                assert at > 30  # enough places were tried
                return
            yield folder
        pytest.fail("there is no end to it")

    def check(self, folder: Path, start: Path) -> int:
        """A whole checkpoint is found, it loads, and the next one can be written."""
        found = checkpoint_to_resume(folder)
        assert found is not None
        assert flaw_of(found) is None
        step = int(found.name.split("-")[1])
        weights = load_file(found / STATE / "weights.safetensors")
        expected = load_file(start / "checkpoint-1" / STATE / "weights.safetensors")
        assert weights.keys() == expected.keys()
        return step

    @pytest.mark.slow
    def test_out_of_space(self, saved):
        save, start = saved

        def attempt(folder: Path) -> bool:
            try:
                save(folder)
            except (OSError, ResourcesError) as error:
                return "No space left" not in str(error)
            return True

        steps = []
        for folder in self.attempts(attempt, start, no_space):
            steps.append(self.check(folder, start))
            save(folder)  # with space again
            assert checkpoint_to_resume(folder).name == "checkpoint-2"
            assert [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-2"]
        assert steps == sorted(steps)  # first the old one, then, once it is whole, the new one
        assert set(steps) == {1, 2}

    @pytest.mark.slow
    def test_killed(self, saved):
        save, start = saved

        def attempt(folder: Path) -> bool:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # threads beside a fork
                child = os.fork()
            if not child:
                save(folder)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in (0, 9)
            return code == 0

        steps = [self.check(folder, start) for folder in self.attempts(attempt, start, die)]
        assert steps == sorted(steps)
        assert set(steps) == {1, 2}

    def test_saved_model_opens_with_plain_transformers(self, saved):
        save, start = saved
        save(start)
        loaded = AutoModelForCausalLM.from_pretrained(start / "checkpoint-2")
        AutoTokenizer.from_pretrained(start / "checkpoint-2")
        weights = load_file(start / "checkpoint-2" / STATE / "weights.safetensors")
        for name, value in loaded.named_parameters():
            assert torch.equal(value, weights[f"model.{name}"])


def test_weights_of_another_student_are_refused(lab, small, distillation, tmp_path):
    lab(max_steps=1).run(tmp_path / "run")
    state = tmp_path / "run" / "checkpoint-1" / STATE
    other = distillation(student={"architecture": "llama"}).trainer().engine.module
    with pytest.raises(ValueError, match=r"is of another student: it lacks \['model.lm_head"):
        load_weights_into(other, state)
