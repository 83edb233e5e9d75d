"""A teacher that follows the student: versions, the drained stream, resuming; the loop is real.

Actors are plain objects that answer at once, the engine is plain torch.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import set_seed

import orchestrator.arm
import orchestrator.attendance
import orchestrator.renewal
from losses.base import Pair
from losses.methods.kl import Kl
from losses.mixture import Absent
from orchestrator.arm import Arm, Course, train_arm
from orchestrator.attendance import Attendance
from orchestrator.checkpoint import STATE, Inputs
from orchestrator.config import parse_run
from orchestrator.config.faults import TeacherLostRule
from orchestrator.errors import SilentTeacher, TeacherLost
from orchestrator.interruption import StopRequest
from orchestrator.renewal import Renewal
from orchestrator.specs import engine_options
from orchestrator.starting_point import starting_point
from orchestrator.student.module import DistillModule, Term
from orchestrator.student.objective import Objective
from orchestrator.student.state import load_weights_into, restore, restore_random_state
from orchestrator.student.trainer import StudentTrainer
from orchestrator.student.worker import StudentWorker
from teachers.actor import TeacherActor, TeacherSpec
from teachers.snapshot import Version, newest_version, without_version
from teachers.source import ModelSource
from teachers.teacher import Teacher

NUM_STEPS, EVERY, DECAY = 5, 2, 0.5
NAMES = ("ce", "own/kl")


class Killed(BaseException):
    """The process is gone."""


class Local:
    """An actor in this process: ``method.remote(…)`` answers at once."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._target, name))


class Rank(StudentWorker):
    """Notes the teacher's version and the mean of its weights at each step."""

    die: int | None = None

    def step(self, documents, references, num_scored_bytes, *, measure_shares):
        if len(self.diary) + self.first == self.die:
            raise Killed
        self.diary.append(self.spoken.version)
        return super().step(documents, references, num_scored_bytes, measure_shares=measure_shares)

    def _get(self, teacher: str, reference: Any) -> Any:
        return reference


@dataclass
class Lab:
    """A run with one teacher that follows the student."""

    distillation: Any
    source: Path
    die: int | None = None
    actor: TeacherActor | None = None

    @property
    def config(self) -> Any:
        return parse_run(
            {
                "student": {"init": "x"},
                "teachers": [
                    {
                        "name": "own",
                        "kind": "self",
                        "methods": [{"name": "kl"}],
                        "refresh": {"every": EVERY, "decay": DECAY},
                    }
                ],
                "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
                "train": {
                    "max_steps": NUM_STEPS,
                    "global_batch": 2,
                    "micro_batch": 1,
                    "save_steps": 1,
                    "learning_rate": 0.01,
                    "prefetch": 2,
                },
                "output_dir": "x",
            }
        )

    @property
    def spec(self) -> TeacherSpec:
        source = ModelSource(str(self.source))
        return TeacherSpec("own", source, (Kl(),), follows=True)

    def rank(self, point: Any) -> Rank:
        set_seed(0)
        student = self.distillation.build_student()
        term = Term("own", "kl", Kl(), 1.0, Pair(*[student.tokenizer.vocabulary] * 2))
        module = DistillModule(student, [term])
        module.model.train()
        plain = self.distillation.trainer()
        engine = type(plain.engine)(module, engine_options(self.config))
        rank = Rank(0, Path())
        rank.trainer = StudentTrainer(engine, Objective((0.5, 1.0), "bytes"), 1, 512)
        rank.diary, rank.first, rank.die = [], point.position.step, self.die
        if point.checkpoint is not None:
            load_weights_into(module, point.checkpoint / STATE)
            restore(engine, point.checkpoint / STATE)
            restore_random_state(point.checkpoint / STATE, 0)
        return rank

    def run(self, folder: Path) -> Rank:
        """Start, or go on where the folder stands."""
        documents = self.distillation.documents[:4]
        course = Course(self.config, folder, Inputs({}), documents, (), StopRequest())
        point = starting_point(course)
        rank, self.actor = self.rank(point), TeacherActor(self.spec)

        def renewed(step: int) -> None:
            rank.set_head("own", self.actor.head_weights())

        renewal = Renewal(
            "own",
            Local(self.actor),
            {"0": Local(rank)},
            EVERY,
            folder / "versions",
            torch.float32,
            1.0,
            renewed,
        )
        renewal.begin(point.position.step, point.checkpoint and point.checkpoint / STATE)
        arm = Arm({"student/0": Local(rank)}, {"own": Local(self.actor)}, NAMES, renewal)
        train_arm(arm, course, point.position, lambda step, values: None)
        return rank


@pytest.fixture
def lab(distillation, tmp_path, monkeypatch) -> Lab:
    for module in (orchestrator.arm, orchestrator.attendance, orchestrator.renewal):
        at_once = lambda references, timeout_s, doing: dict(references)  # noqa: E731
        monkeypatch.setattr(module, "collect", at_once)
    monkeypatch.setattr(orchestrator.arm, "work_metrics", lambda answers: {})
    base = distillation()
    student = base.build_student()
    student.model.save_pretrained(tmp_path / "init")
    student.tokenizer.fast.save_pretrained(tmp_path / "init")
    return Lab(base, tmp_path / "init")


def metrics(folder: Path) -> list[tuple[float, float]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["loss"], row["teacher/own/kl/kd_loss"]) for row in rows]


def test_versions_and_losses(lab, tmp_path):
    """Steps ahead of a new version are asked only when it speaks: else the rank would refuse."""
    rank = lab.run(tmp_path / "run")
    assert rank.diary == [0, 0, 1, 1, 2]
    distances = [distance for _, distance in metrics(tmp_path / "run")]
    assert abs(distances[0]) < 1e-6  # the student still is its teacher
    assert min(distances[1:]) > 1e-4
    assert [path.name for path in (tmp_path / "run" / "versions").iterdir()] == ["version-2"]


def test_the_teacher_is_the_running_mean(lab, tmp_path):
    rank = lab.run(tmp_path / "run")
    mean: dict[str, torch.Tensor] = dict(lab.distillation.build_student().model.state_dict())
    for step in range(1, 2 * EVERY + 1):
        state = tmp_path / "run" / f"checkpoint-{step}" / STATE
        module = DistillModule(lab.distillation.build_student(), [])
        load_weights_into(module, state)
        now = module.model.state_dict()
        mean = {name: torch.lerp(value, now[name], 1 - DECAY) for name, value in mean.items()}
    found = lab.actor.teacher.model.model.state_dict()
    assert rank.spoken.version == lab.actor.teacher.version == 2
    for name, value in mean.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("step", range(1, NUM_STEPS))
def test_killed_and_resumed(lab, tmp_path, step):
    whole = lab.run(tmp_path / "whole")
    lab.die = step
    with pytest.raises(Killed):
        lab.run(tmp_path / "run")
    lab.die = None
    torch.manual_seed(99)
    resumed = lab.run(tmp_path / "run")
    assert resumed.diary == whole.diary[step:]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    theirs = whole.trainer.engine.state_dict()
    for name, value in resumed.trainer.engine.state_dict().items():
        assert torch.equal(value, theirs[name]), name


class TestSpeaking:
    """What becomes of the versions on the disk, and of the teacher, while it loads a new one."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for number in (0, 1, 5):
            (tmp_path / f"version-{number}").mkdir()
        (tmp_path / ".version-2.ab.partial").mkdir()
        return tmp_path

    @pytest.fixture
    def answers(self, monkeypatch) -> list[Any]:
        """What happens each time that somebody is waited for: an error, or nothing."""
        found: list[Any] = []

        def collect(references, timeout_s, doing):
            if found and (error := found.pop(0)):
                raise error
            return dict(references)

        for module in (orchestrator.attendance, orchestrator.renewal):
            monkeypatch.setattr(module, "collect", collect)
        return found

    def renewal(self, folder: Path, seen: list[Any], rule: TeacherLostRule = "abort") -> Renewal:
        def renew(path: Path, version: int) -> None:
            seen.append((version, sorted(p.name for p in folder.glob("version-*"))))

        teacher = SimpleNamespace(renew=SimpleNamespace(remote=renew))
        leave_out = SimpleNamespace(remote=lambda teachers: {})
        ranks = {"student/0": SimpleNamespace(leave_out=leave_out)}
        attendance = Attendance(rule, {"own": teacher, "other": None}, students=ranks)
        return Renewal(
            "own",
            teacher,
            {},
            EVERY,
            folder,
            torch.float32,
            1.0,
            lambda step: seen.append(("head", step)),
            attendance,
        )

    def test_one_that_starts_again_meanwhile_finds_the_new_one(self, folder, answers):
        """Newer ones are gone before; one that it may be loading stays until it has spoken."""
        seen: list[Any] = []
        (folder / "version-2").mkdir()
        self.renewal(folder, seen).renew(2 * EVERY)
        assert seen == [(2, ["version-0", "version-1", "version-2"]), ("head", 2 * EVERY)]
        assert [path.name for path in folder.glob("version-*")] == ["version-2"]
        assert newest_version(folder) == (folder / "version-2", 2)

    def test_a_dropped_one_is_never_renewed_again(self, folder, answers):
        seen: list[Any] = []
        answers[:] = [None, TeacherLost("own died while loading version 1")]
        renewal = self.renewal(folder, seen, "drop")
        renewal.renew(EVERY)
        assert renewal.attendance.dropped == {"own": EVERY}
        assert [what for what, _ in seen] == [1]  # and no head
        assert not renewal.is_due(2 * EVERY)
        assert self.renewal(folder, seen).is_due(2 * EVERY)

    def test_abort(self, folder, answers):
        answers[:] = [None, TeacherLost("own died while loading version 1")]
        with pytest.raises(TeacherLost, match="loading version 1"):
            self.renewal(folder, []).renew(EVERY)

    def test_a_silent_one_is_waited_for_and_asked_once(self, folder, answers):
        seen: list[Any] = []
        answers[:] = [None, SilentTeacher("own: late"), SilentTeacher("own: late"), None]
        self.renewal(folder, seen, "wait").renew(EVERY)
        assert [what for what, _ in seen] == [1, "head"]
        assert not answers


def test_a_checkpoint_without_its_version_is_refused(lab, tmp_path):
    renewal = Renewal(
        "own", None, {}, EVERY, tmp_path / "versions", torch.float32, 1.0, lambda step: None
    )
    with pytest.raises(ValueError, match="but teacher own spoke from it at step 3"):
        renewal.begin(3, tmp_path)


class TestVersions:
    def test_another_version_is_refused(self):
        said = Absent()
        rows = [(said, Version(3)), (said, said, Version(3))]
        assert without_version(rows, "own", 3) == [(said,), (said, said)]
        for wrong in ([*rows, (said, Version(2))], [(said,)], [()]):
            with pytest.raises(ValueError, match="the student expects version 3"):
                without_version(wrong, "own", 3)

    def test_nothing_is_said_before_the_first(self, lab, documents):
        teacher = lab.spec.build()
        with pytest.raises(ValueError, match="has no version of the student yet"):
            teacher.signals(documents)
        assert teacher.evaluate(documents)

    def test_signals_are_those_of_the_renewed_weights(self, lab, documents, tmp_path):
        other = lab.distillation.build_student().model
        torch.manual_seed(1)
        for parameter in other.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.01)
        other.save_pretrained(tmp_path / "other")
        actor = TeacherActor(lab.spec)
        actor.renew(tmp_path / "other", 7)
        rows = actor.signals(documents)
        assert {row[-1] for row in rows} == {Version(7)}
        expected = Teacher(replace(actor.teacher.model, model=other), (Kl(),)).signals(documents)
        for (ours, _), (theirs,) in zip(rows, expected, strict=True):
            assert (ours.hidden == theirs.hidden).all()

    def test_a_process_started_again_speaks_from_the_newest(self, lab, documents, tmp_path):
        for number in (2, 10):
            model = lab.distillation.build_student().model
            next(model.parameters()).data.add_(number)
            model.save_pretrained(tmp_path / "versions" / f"version-{number}")
        (tmp_path / "versions" / ".version-11.partial").mkdir()
        spec = replace(lab.spec, versions=tmp_path / "versions")
        again, renewed = TeacherActor(spec), TeacherActor(lab.spec)
        renewed.renew(tmp_path / "versions" / "version-10", 10)
        for ours, theirs in zip(again.signals(documents), renewed.signals(documents), strict=True):
            assert ours[-1] == theirs[-1] == Version(10)
            assert (ours[0].hidden == theirs[0].hidden).all()
        empty = replace(lab.spec, versions=tmp_path / "nothing")
        assert TeacherActor(empty).teacher.version is None

    def test_a_frozen_teacher_is_not_renewed(self, lab, tmp_path):
        actor = TeacherActor(replace(lab.spec, follows=False))
        with pytest.raises(TypeError, match="teacher own is frozen"):
            actor.renew(tmp_path, 1)
