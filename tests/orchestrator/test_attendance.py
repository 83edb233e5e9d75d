"""A teacher that is lost: abort, wait or drop; what ranks do then, what the driver waits for."""

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

import orchestrator.arm
import orchestrator.attendance
import orchestrator.student.worker
from losses.methods.kl import Kl
from losses.mixture import Absent, Confidence, TeacherScore, Unusable
from orchestrator.arm import Arm, Course, _stop_if_asked, gather
from orchestrator.attendance import Attendance
from orchestrator.checkpoint import Inputs, Tally
from orchestrator.config import ChecksConfig, parse_run
from orchestrator.errors import TeacherLost, WorkerLost
from orchestrator.gates.arm import gates_of
from orchestrator.interruption import Interrupted, StopRequest
from orchestrator.replicas import Replicas
from orchestrator.stream import Request, StepBatch
from orchestrator.student.arrival import Arrival, Bad, Inbox, Missing, signals_by_document
from orchestrator.student.worker import StudentWorker
from teachers.server.client import ServerLost
from teachers.teacher import Teacher

DIED = Missing("b", "teacher b died: killed", died=True)
LATE = Missing("b", "teacher b: no signals for 3 s", died=False)
GATES = gates_of(ChecksConfig())
CHANGES = {"ce": (1.0, 1.0), "a/kl": (1.0, 3.0), "b/kl": (2.0, 0.0)}


def remote(answer: Any) -> Any:
    return SimpleNamespace(remote=answer)


@pytest.fixture
def at_once(monkeypatch):
    for module in (orchestrator.arm, orchestrator.attendance):
        monkeypatch.setattr(module, "collect", lambda asked, limit, doing: dict(asked))


@pytest.fixture
def attendance(monkeypatch, at_once) -> Any:
    """Two teachers and two ranks; notes who is killed and what the ranks are told."""
    killed: list[Any] = []
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(orchestrator.attendance, "kill", killed.extend)

    def leave_out(teachers: tuple[str, ...]) -> Any:
        told.append(teachers)
        return CHANGES

    ranks = {f"student/{i}": SimpleNamespace(leave_out=remote(leave_out)) for i in range(2)}
    live = {"a": "actor a", "b": "actor b"}
    made = Attendance("abort", {"a": "handle a", "b": "handle b"}, live, ranks)
    made.killed, made.told = killed, told
    return made


class TestRules:
    @pytest.mark.parametrize("missing", [DIED, LATE])
    def test_abort_names_it(self, attendance, missing):
        with pytest.raises(TeacherLost, match="teacher b"):
            attendance.lose(missing, 4)
        assert not attendance.dropped

    def test_wait_waits_for_one_that_is_silent(self, attendance, caplog):
        attendance.rule = "wait"
        paused: list[int] = []
        attendance.pause = paused.append
        attendance.lose(LATE, 4)
        assert "no signals for 3 s; waiting on" in caplog.text
        with pytest.raises(TeacherLost, match="teacher b died: killed; to wait on would not"):
            attendance.lose(DIED, 4)
        assert paused == [4]  # a signal may have asked the run to stop

    def test_another_replica_stands_in_under_any_rule(self, attendance, monkeypatch, caplog):
        replicas = Replicas(["x", "y"])
        attendance.teachers["b"] = replicas
        monkeypatch.setattr(replicas, "stand_in", lambda: 1)
        attendance.lose(DIED, 4)
        assert "teacher b died: killed; REPLICAS LOST: 1, the others read" in caplog.text
        for missing in (LATE, DIED):  # one that hangs; then the last one
            monkeypatch.setattr(replicas, "stand_in", lambda: 0)
            with pytest.raises(TeacherLost):
                attendance.lose(missing, 4)

    @pytest.mark.parametrize("missing", [DIED, LATE])
    def test_drop_goes_on_without_it(self, attendance, missing, caplog):
        attendance.rule = "drop"
        attendance.lose(missing, 4)
        assert attendance.dropped == {"b": 4}
        assert list(attendance.teachers) == ["a"]
        assert attendance.killed == ["actor b"]  # also one that only hangs
        assert list(attendance.live) == ["a"]  # for ranks that start again
        assert attendance.told == [("b",)] * 2
        assert "TEACHER b IS DROPPED from step 4 on: weights ce 1 -> 1, a/kl 1 -> 3" in caplog.text

    def test_the_last_one_goes_only_if_there_is_cross_entropy(self, attendance):
        attendance.rule = "drop"
        del attendance.teachers["a"]
        with pytest.raises(TeacherLost, match="cannot be dropped: no other teacher is left"):
            attendance.lose(DIED, 4)
        attendance.has_ce = True
        attendance.lose(DIED, 4)
        assert not attendance.teachers

    def test_new_ranks_are_told(self, attendance, caplog):
        attendance.begin()
        assert not attendance.told
        attendance.dropped["b"] = 3
        attendance.begin()
        assert attendance.told == [("b",)] * 2
        assert "teacher b stays dropped since step 3" in caplog.text


def test_the_driver_waits_until_all_ranks_have_all(at_once, documents):
    """A teacher that one rank misses is dropped for all of them, then they are asked again."""
    answers = [[Arrival(), Arrival(DIED)], [Arrival(), Arrival(bad=(Bad("a", "d1", "why"),))]]
    asked: list[Any] = []

    def receive(documents: Any, references: Any) -> Arrival:
        asked.append(([document.name for document in documents], references))
        return answers[(len(asked) - 1) // 2][(len(asked) - 1) % 2]

    lost: list[tuple[Missing, int]] = []

    class Noting(Attendance):
        def lose(self, missing: Missing, step: int) -> None:
            lost.append((missing, step))

    ranks = {f"student/{i}": SimpleNamespace(receive=remote(receive)) for i in range(2)}
    batch = StepBatch.of(7, documents[:4], 2)
    request = Request(batch, ({"a": 0}, {"a": 1}), {})
    found = gather(Arm(ranks, {"a": None}, ("ce",), attendance=Noting()), request, 1.0)
    assert found == [Bad("a", "d1", "why")]
    assert lost == [(DIED, 7)]
    assert asked == [(["d0", "d2"], {"a": 0}), (["d1", "d3"], {"a": 1})] * 2


def test_what_a_lost_replica_owes_is_asked_for_where_it_is_missing(at_once, documents):
    """The rank that had its part already is not asked about it again; nothing is lost."""
    asked: list[tuple[str, list[str]]] = []

    def reader(name: str) -> Any:
        def signals(group: Any) -> str:
            asked.append((name, [document.name for document in group]))
            return f"{name}{len(asked)}"

        return SimpleNamespace(signals=remote(signals))

    replicas = Replicas([reader("x"), reader("y")])
    batch = StepBatch.of(7, documents[:4], 2)
    references = tuple({"b": replicas.signals.remote(shard)} for shard in batch.shards)
    request = Request(batch, references, {})
    first = [dict(references) for references in request.references]
    asked.clear()
    lost: list[int] = []

    class Noting(Attendance):
        def lose(self, missing: Missing, step: int) -> None:
            lost.append(step)
            replicas.readers[:] = [1, 1]  # as ``stand_in`` does once Ray says that x is gone

    def receive(number: int) -> Any:
        def answer(shard: Any, references: Any) -> Arrival:
            is_whole = number == 0 or 0 not in references["b"].readers
            return Arrival() if is_whole else Arrival(DIED)

        return SimpleNamespace(receive=remote(answer))

    ranks = {f"student/{number}": receive(number) for number in range(2)}
    assert gather(Arm(ranks, {"b": replicas}, ("ce",), attendance=Noting()), request, 1.0) == []
    assert lost == [7]
    assert asked == [("y", ["d1"])]
    assert request.references[0] == first[0]
    assert request.references[1]["b"].readers == (1, 1)
    assert request.references[1]["b"].references[1] == first[1]["b"].references[1]


@pytest.mark.parametrize("step", [0, 3])
def test_a_run_that_waits_still_stops_when_it_is_told_to(monkeypatch, tmp_path, step):
    saved: list[int] = []
    run = {"student": {"init": "x"}, "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]}}
    config = parse_run({**run, "teachers": [], "output_dir": "x"})
    monkeypatch.setattr(
        orchestrator.arm, "save_checkpoint", lambda arm, course, step, tally: saved.append(step)
    )
    course = Course(config, tmp_path, Inputs({}), (), (), StopRequest())
    arm = Arm({}, {}, ("ce",))
    _stop_if_asked(arm, course, Tally(), step)
    course.stop.signum = signal.SIGTERM
    with pytest.raises(Interrupted, match="is what --resume continues from"):
        _stop_if_asked(arm, course, Tally(), step)
    assert saved == ([step] if step else [])


class Rank(StudentWorker):
    """Fetches from a table."""

    def __init__(self, trainer: Any, table: dict[str, Any]) -> None:
        super().__init__(0, Path())
        self.trainer, self.table = trainer, table
        self.fetched: list[str] = []

    def _get(self, teacher: str, reference: Any) -> Any:
        self.fetched.append(teacher)
        return self.table[teacher]


@pytest.fixture
def case(distillation):
    return distillation()


@pytest.fixture
def rank(case) -> Rank:
    rows = list(zip(*case.signals, strict=True))
    table = {
        name: [(signal,) for signal in column]
        for name, column in zip(case.teachers, rows, strict=True)
    }
    return Rank(case.trainer(), table)


class TestRank:
    REFERENCES = {"same": 0, "other": 1}  # noqa: RUF012

    def test_fetches_each_once(self, rank, case):
        rank.table["other"], there = DIED, rank.table["other"]
        assert rank.receive(case.documents, self.REFERENCES) == Arrival(DIED)
        rank.table["other"] = there
        assert rank.receive(case.documents, self.REFERENCES) == Arrival()
        assert rank.receive(case.documents, self.REFERENCES) == Arrival()
        assert rank.fetched == ["same", "other", "other"]
        _, waited = rank.step(
            case.documents, self.REFERENCES, case.num_scored_bytes, measure_shares=False
        )
        assert list(waited) == ["same", "other"]
        rank.receive(case.documents, self.REFERENCES)
        assert rank.fetched[3:] == ["same", "other"]  # the next step's

    def test_a_step_without_them_is_refused(self, rank, case):
        rank.table["other"] = LATE
        with pytest.raises(WorkerLost, match="no signals for 3 s"):
            rank.step(case.documents, self.REFERENCES, 1, measure_shares=False)

    def test_failed_documents_are_told(self, rank, case):
        failed = [(Unusable("its hidden states"),), *rank.table["same"][1:]]
        rank.table["same"] = failed
        name = case.documents[0].name
        arrival = rank.receive(case.documents, self.REFERENCES)
        assert arrival.bad == (Bad("same", name, "its hidden states"),)
        report, _ = rank.step(
            case.documents, self.REFERENCES, case.num_scored_bytes, measure_shares=False
        )
        assert all(map(torch.isfinite, torch.tensor(report.losses)))

    def test_the_checks_leave_failed_documents_out(self, rank, case, monkeypatch):
        seen: list[Any] = []
        monkeypatch.setattr(
            rank.trainer, "check", lambda documents, signals, gates: seen.append(documents) or []
        )
        rank.table["same"] = [(Unusable("why"),), *rank.table["same"][1:]]
        rank.check(case.documents, self.REFERENCES, GATES)
        assert seen == [case.documents[1:]]
        rank.table["same"] = [(Unusable("why"),)] * len(case.documents)
        with pytest.raises(ValueError, match=r"teacher same fails on every document .*: why"):
            rank.check(case.documents, self.REFERENCES, GATES)

    def test_without_a_teacher_the_other_has_its_weight(self, rank, case):
        """As if the run file had had the other weight, and the documents no such teacher."""
        assert rank.leave_out(("other",)) == {
            "ce": (0.5, 0.5),
            "same/kl": (1.0, 3.0),
            "other/alm": (2.0, 0.0),
        }
        args = (case.documents, {"same": 0}, case.num_scored_bytes)
        report, _ = rank.step(*args, measure_shares=True)
        trainer = case.trainer(weights=(0.5, 3.0, 0.0))
        signals = [(row[0], Absent()) for row in case.signals]
        expected = trainer.step(case.documents, signals, case.num_scored_bytes, measure_shares=True)
        assert report.loss == expected.loss
        assert report.weights == (0.5, 3.0, 0.0)
        assert report.shares == expected.shares
        theirs = trainer.engine.state_dict()
        for name, value in rank.trainer.engine.state_dict().items():
            assert torch.equal(value, theirs[name]), name

    def test_what_had_arrived_of_it_does_not_count(self, rank, case):
        rank.receive(case.documents, self.REFERENCES)
        rank.leave_out(("other",))
        assert list(rank.inbox.rows) == ["same"]

    @pytest.mark.parametrize(
        ("error", "died"),
        [
            (ray.exceptions.GetTimeoutError("late"), False),
            (ray.exceptions.ActorDiedError(), True),
            (ray.exceptions.ObjectLostError("00", None, ""), True),
        ],
    )
    def test_what_counts_as_lost(self, rank, monkeypatch, error, died):
        def fetch(reference: Any, timeout_s: float) -> None:
            raise error

        monkeypatch.setattr(orchestrator.student.worker, "fetch", fetch)
        rank.spec = SimpleNamespace(timeout_s=3.0)
        missing = StudentWorker._get(rank, "b", None)
        assert (missing.teacher, missing.died) == ("b", died)
        assert "teacher b" in missing.text

    def test_a_server_that_is_gone_is_a_loss(self, rank, monkeypatch):
        gone = ServerLost("teacher b: the server at http://x cannot be reached")
        error = ray.exceptions.RayTaskError("signals", "trace", gone)

        def fetch(reference: Any, timeout_s: float) -> None:
            raise error.as_instanceof_cause()

        monkeypatch.setattr(orchestrator.student.worker, "fetch", fetch)
        rank.spec = SimpleNamespace(timeout_s=3.0)
        assert StudentWorker._get(rank, "b", None) == Missing("b", str(gone), died=True)

    def test_a_teachers_own_error_is_no_loss(self, rank, monkeypatch):
        error = ray.exceptions.RayTaskError("signals", "trace", ValueError("document d7"))

        def fetch(reference: Any, timeout_s: float) -> None:
            raise error.as_instanceof_cause()

        monkeypatch.setattr(orchestrator.student.worker, "fetch", fetch)
        rank.spec = SimpleNamespace(timeout_s=3.0)
        with pytest.raises(ValueError, match="trace") as caught:
            StudentWorker._get(rank, "b", None)
        assert str(caught.value.cause) == "document d7"


def test_rows_in_the_run_files_order():
    a, b = Absent(), TeacherScore(1.0, 2, 3)
    nothing = {"a": (Absent(),), "b": (Absent(), TeacherScore(0.0, 0, 0))}
    rows = {"b": [(a, b), (a, b)], "a": [(b,), (b,)]}
    assert signals_by_document(rows, nothing, (), 2) == [(b, a, b)] * 2
    assert signals_by_document({"a": rows["a"]}, nothing, ("b",), 2) == [(b, *nothing["b"])] * 2
    with pytest.raises(KeyError):
        signals_by_document({"a": rows["a"]}, nothing, (), 2)


def test_waiting_adds_up():
    inbox = Inbox()
    inbox.put("a", None, 3.0)
    inbox.put("a", [()], 0.5)
    assert inbox.waited == {"a": 3.5}


def test_a_scheme_that_judges_teachers_takes_a_dropped_one_for_silent(distillation):
    """Under ``confidence`` the teacher that is left has all of the weight on each document."""
    base = distillation({"same": Kl(), "other": Kl()})
    teachers = {n: Teacher(m, [base.methods[n]], asks="ce") for n, m in base.teachers.items()}
    trainer = distillation().trainer(weights=(0.5, 1.0, 2.0))
    trainer.objective = replace(trainer.objective, scheme=Confidence())
    rank = Rank(trainer, {"same": teachers["same"].signals(base.documents)})
    rank.leave_out(("other",))
    report, _ = rank.step(base.documents, {"same": 0}, base.num_scored_bytes, measure_shares=False)
    assert report.weights == pytest.approx((0.5, 3.0, 0.0))
