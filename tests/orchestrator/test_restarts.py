"""When ranks start again, what is said of one that hangs, and what the run file may ask for."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

import orchestrator.actors
from orchestrator.actors import collect, loaded
from orchestrator.attendance import Attendance
from orchestrator.config import parse_run
from orchestrator.errors import (
    ConfigError,
    RankLost,
    ResourcesError,
    SilentRank,
    SilentTeacher,
    TeacherLost,
    WorkerLost,
    exit_code,
)
from orchestrator.processes import Teachers, _too_early
from orchestrator.run import attempts
from orchestrator.run_logs import log_of, who_hangs
from teachers.server.client import ServerLost


def tried(restarts: int, errors: list[Exception], teachers: Teachers | None = None) -> int:
    """How often an arm was begun whose first tries end with these errors."""
    count = 0
    for attempt in attempts(restarts, teachers or Teachers()):
        with attempt:
            count += 1
            if errors:
                raise errors.pop(0)
    return count


class TestAttempts:
    def test_a_lost_rank_starts_again(self, caplog):
        assert tried(2, [RankLost("student/1 died"), RankLost("student/0 died")]) == 3
        assert "student/1 died; THE RANKS START AGAIN" in caplog.text

    def test_but_not_for_ever(self):
        with pytest.raises(RankLost, match="the second"):
            tried(1, [RankLost("the first"), RankLost("the second")])
        with pytest.raises(RankLost):
            tried(0, [RankLost("the first")])

    @pytest.mark.parametrize("error", [SilentRank("hangs"), TeacherLost("a"), ValueError("wrong")])
    def test_other_errors_end_the_run(self, error):
        with pytest.raises(type(error)):
            tried(5, [error])

    def test_not_once_the_teachers_are_gone(self):
        with pytest.raises(RankLost):
            tried(5, [RankLost("while scoring at the end")], Teachers(stopped=True))


def test_exit_codes():
    assert {exit_code(kind("x")) for kind in (WorkerLost, RankLost, SilentRank, TeacherLost)} == {5}


class TestWhoHangs:
    def test_stacks_tell_them_apart(self, tmp_path):
        waiting = 'old\nTimeout (0:09:00)!\n  File "torch/distributed/distributed_c10d.py" in wait'
        logs = {"student/0": waiting, "student/1": 'Timeout (0:09:00)!\n  File "adamw.py" in step'}
        for name, text in logs.items():
            path = log_of(tmp_path, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        log_of(tmp_path, "student/2").write_text("INFO ready")
        said = who_hangs(tmp_path, ("student/0", "student/1", "student/2", "student/3"))
        assert said == (
            "student/2 does not even write its stacks, student/3 does not even write its stacks, "
            "student/1 hangs, student/0 waits for the others; stacks and logs are in "
            f"{tmp_path}/logs"
        )

    def test_only_the_last_stacks_count(self, tmp_path):
        path = log_of(tmp_path, "student/0")
        path.parent.mkdir()
        path.write_text('Timeout (a)\n File "distributed_c10d.py"\nTimeout (b)\n File "x.py"')
        assert "student/0 hangs" in who_hangs(tmp_path, ("student/0",))

    def test_names(self, tmp_path):
        assert log_of(Path("/run"), "student/1") == Path("/run/logs/student-1.log")
        assert log_of(Path("/run"), "gemma") == Path("/run/logs/teacher-gemma.log")


class TestCollect:
    """Which error becomes of which answer; ``ray.wait`` gives them in the order they were asked."""

    @pytest.fixture
    def answers(self, monkeypatch) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def get(reference: str) -> Any:
            if isinstance(found[reference], Exception):
                raise found[reference]
            return found[reference]

        def wait(references: list[str], num_returns: int, timeout: float) -> Any:
            there = [r for r in references if r in found][:1]
            return there, [r for r in references if r not in there]

        fake = SimpleNamespace(get=get, wait=wait)
        monkeypatch.setattr(orchestrator.actors, "ray", fake)
        return found

    def failed(self, error: Exception) -> Exception:
        return RayTaskError("step", "trace", error).as_instanceof_cause()

    def test_a_rank_that_missed_its_peer_is_not_to_blame(self, answers):
        answers["r0"] = self.failed(RuntimeError("gloo: Connection closed by peer"))
        answers["r1"] = RayActorError()
        with pytest.raises(RankLost, match=r"student/1 died while step 3"):
            collect({"student/0": "r0", "student/1": "r1"}, 1.0, "step 3")

    def test_its_own_error_stays_its_own(self, answers, monkeypatch):
        monkeypatch.setattr(orchestrator.actors, "PEER_S", 0.0)
        answers["r0"] = self.failed(RuntimeError("a shape is wrong"))
        with pytest.raises(RuntimeError, match="a shape is wrong") as caught:
            collect({"student/0": "r0", "student/1": "r1"}, 1.0, "step 3")
        assert type(caught.value) is RuntimeError

    def test_who_died_decides(self, answers):
        answers["x"] = RayActorError()
        with pytest.raises(TeacherLost, match="gemma died"):
            collect({"gemma": "x"}, 1.0, "loading")
        with pytest.raises(RankLost, match="student/0 died"):
            collect({"student/0": "x"}, 1.0, "loading")

    def test_who_is_late_decides(self, answers):
        with pytest.raises(SilentTeacher, match=r"^a, b: no answer for 1 s while loading"):
            collect({"a": "x", "b": "y"}, 1.0, "loading")
        with pytest.raises(SilentRank, match="no answer") as caught:
            collect({"a": "x", "student/1": "y"}, 1.0, "loading")
        assert caught.value.names == ("student/1",)

    def test_what_a_constructor_raised_is_raised_at_the_start(self, answers):
        """Later it is why the process could not start again."""
        cause = RayTaskError("__init__", "trace", ValueError("no weights"))
        answers["x"] = ActorDiedError(cause)
        with pytest.raises(ValueError, match=r"^no weights$"):
            loaded({"gemma": "x"}, 1.0)
        with pytest.raises(TeacherLost, match=r"^gemma died while loading version 2: no weights$"):
            collect({"gemma": "x"}, 1.0, "loading version 2")
        answers["x"] = RayActorError()
        with pytest.raises(TeacherLost, match="gemma died while loading its model"):
            loaded({"gemma": "x"}, 1.0)

    def test_a_server_that_is_gone_is_a_lost_teacher(self, answers):
        answers["x"] = self.failed(ServerLost("teacher gemma: the server at http://x is gone"))
        with pytest.raises(TeacherLost, match=r"http://x is gone \(while scoring documents\)"):
            collect({"gemma": "x"}, 1.0, "scoring documents")

    def test_a_rank_that_was_given_what_a_dead_teacher_owed(self, answers):
        answers["x"] = self.failed(RayActorError())
        with pytest.raises(TeacherLost, match="receiving gemma's head"):
            collect({"student/0": "x"}, 1.0, "receiving gemma's head")

    def test_no_memory_is_a_lack_of_resources(self, answers):
        answers["x"] = self.failed(MemoryError("teacher a: out of memory on document d alone"))
        with pytest.raises(ResourcesError, match="document d alone"):
            collect({"student/0": "x"}, 1.0, "receiving")


def run_file(num_teachers: int = 1, ce_weight: float = 0.0, **faults: Any) -> dict[str, Any]:
    teachers = [
        {"name": f"t{i}", "model": "org/m", "methods": [{"name": "kl"}]}
        for i in range(num_teachers)
    ]
    return {
        "student": {"init": "org/s"},
        "teachers": teachers,
        "mixture": {"ce_weight": ce_weight},
        "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
        "faults": faults,
        "output_dir": "run",
    }


def test_before_the_first_step_the_message_says_that_no_rule_counts():
    config = parse_run(run_file(teacher_lost="wait"))
    assert "faults.teacher_lost: wait counts from the first step on" in _too_early(
        config, Attendance()
    )
    assert _too_early(config, Attendance("wait")) == ""
    assert _too_early(parse_run(run_file()), Attendance()) == ""


class TestRunFile:
    def test_restarts_as_ray_counts_them(self):
        assert parse_run(run_file()).faults.max_restarts == 3
        assert parse_run(run_file(teacher_restarts=7)).faults.max_restarts == 7
        assert parse_run(run_file(teacher_lost="wait")).faults.max_restarts == -1

    def test_dropping_the_only_teacher(self):
        with pytest.raises(ConfigError, match=r"faults.teacher_lost: drop of the only teacher"):
            parse_run(run_file(teacher_lost="drop"))
        parse_run(run_file(num_teachers=2, teacher_lost="drop"))
        parse_run(run_file(ce_weight=1.0, teacher_lost="drop"))

    def test_dropping_under_zero_3(self):
        file = run_file(num_teachers=2, teacher_lost="drop")
        file["teachers"][0]["methods"] = [{"name": "dskd"}]
        file["deepspeed"] = {"zero_optimization": {"stage": 3}}
        with pytest.raises(ConfigError, match=r"but faults.teacher_lost: drop keeps some"):
            parse_run(file)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("teacher_restarts", -1), ("teacher_lost", "ask"), ("bad_documents", 1.5)],
    )
    def test_wrong_values(self, key, value):
        with pytest.raises(ConfigError, match=f"faults.{key}"):
            parse_run(run_file(**{key: value}))


def test_a_tally_keeps_what_was_lost(tmp_path):
    from dataclasses import asdict

    from orchestrator.checkpoint import Inputs, Position, Tally

    tally = Tally(dropped={"b": 3}, bad_documents={"a": ["x"]})
    (tmp_path / "state").mkdir()
    Position(4, 0, Inputs({}), tally).save(tmp_path)
    assert Position.load(tmp_path).tally == tally
    assert json.loads(json.dumps(asdict(tally)))["dropped"] == {"b": 3}
