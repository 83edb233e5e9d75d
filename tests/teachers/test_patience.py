"""A teacher that lacks something for the time being waits for it, if the run file asks for that."""

import pytest
import torch
from tenacity import wait_none

import teachers.actor
import teachers.patience
from teachers.actor import TeacherActor, TeacherSpec
from teachers.server.client import ServerLost
from teachers.source import ModelSource
from teachers.speaker import Speaker

GONE = ServerLost("teacher t: the server at http://x cannot be reached")


class Teacher(Speaker):
    """Fails with these errors, one a call, then answers."""

    def __init__(self, errors):
        self.errors, self.asked = errors, []

    def signals(self, documents):
        self.asked.append(documents)
        if self.errors:
            raise self.errors.pop(0)
        return [()] * len(documents)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(teachers.patience, "WAIT", wait_none())


@pytest.fixture
def started(monkeypatch):
    """An actor whose building fails with these errors; says how often it was tried."""

    def start(*errors, waits=True, again=True, answers=()):
        left, tries = list(errors), []

        def build(spec):
            tries.append(spec.name)
            if left:
                raise left.pop(0)
            return Teacher(list(answers))

        monkeypatch.setattr(teachers.actor, "build_teacher", build)
        monkeypatch.setattr(teachers.actor, "started_again", lambda: again)
        try:
            return TeacherActor(TeacherSpec("t", ModelSource("m"), (), waits=waits))
        finally:
            start.tries = len(tries)

    return start


class TestStarting:
    @pytest.mark.parametrize(
        "error", [GONE, FileNotFoundError("not mounted"), torch.OutOfMemoryError("full")]
    )
    def test_again_until_what_it_lacks_is_there(self, started, error, caplog):
        started(error, error)
        assert started.tries == 3
        assert f"{error}; waiting on (faults.teacher_lost: wait)" in caplog.text

    def test_what_no_try_can_mend_is_raised_at_once(self, started):
        with pytest.raises(ValueError, match="damaged"):
            started(GONE, ValueError("the weights are damaged"))
        assert started.tries == 2

    @pytest.mark.parametrize("case", [{"waits": False}, {"again": False}])
    def test_the_first_start_and_other_rules_do_not_wait(self, started, case):
        with pytest.raises(FileNotFoundError, match="not mounted"):
            started(FileNotFoundError("not mounted"), **case)
        assert started.tries == 1

    def test_outside_of_ray_nobody_was_started_again(self):
        assert not teachers.patience.started_again()


class TestAnswering:
    def test_the_same_is_asked_until_the_server_is_back(self, started, documents, caplog):
        actor = started(answers=[GONE, GONE])
        assert actor.signals(documents) == [()] * len(documents)
        assert actor.teacher.asked == [documents] * 3
        assert "cannot be reached; waiting on" in actor.worked().warnings[0]

    def test_other_rules_hear_of_it(self, started, documents):
        actor = started(answers=[GONE], waits=False)
        with pytest.raises(ServerLost, match="cannot be reached"):
            actor.signals(documents)

    def test_a_wrong_answer_is_no_loss(self, started, documents):
        with pytest.raises(ValueError, match="other ids"):
            started(answers=[ValueError("other ids")]).signals(documents)
