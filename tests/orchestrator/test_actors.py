"""Waiting for actors: failures come early, with the right name and the right error."""

import os
import signal
import time

import pytest
import ray

from orchestrator.actors import collect
from orchestrator.errors import WorkerLost

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Answerer:
    """Answers, sleeps, raises or dies, as told."""

    def answer(self, value):
        return value

    def sleep(self, seconds):
        time.sleep(seconds)

    def fail(self):
        raise ValueError("document d7 is broken")

    def pass_on(self, reference):
        return ray.get(reference[0])

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def actors():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    made = {name: ray.remote(Answerer).remote() for name in ("a", "b")}
    ray.get([actor.answer.remote(0) for actor in made.values()])
    yield made
    ray.shutdown()


def test_answers_keep_the_order_they_were_asked_in(actors):
    asked = {"a": actors["a"].answer.remote(1), "b": actors["b"].answer.remote(2)}
    assert list(collect(asked, 30.0, "answering").items()) == [("a", 1), ("b", 2)]


def test_the_actors_own_error_is_raised_without_waiting_for_the_others(actors):
    started = time.perf_counter()
    asked = {"a": actors["a"].sleep.remote(20), "b": actors["b"].fail.remote()}
    with pytest.raises(ValueError, match="document d7 is broken") as caught:
        collect(asked, 30.0, "testing")
    assert time.perf_counter() - started < 10
    assert type(caught.value) is ValueError


def test_an_error_that_came_through_two_actors_is_still_the_first_one(actors):
    failing = actors["b"].fail.remote()
    other = ray.remote(Answerer).remote()
    with pytest.raises(ValueError, match="document d7 is broken") as caught:
        collect({"other": other.pass_on.remote([failing])}, 60.0, "testing")
    assert type(caught.value) is ValueError


def test_who_is_late_is_named(actors):
    late = ray.remote(Answerer).remote()
    asked = {"b": actors["b"].answer.remote(1), "late": late.sleep.remote(60)}
    with pytest.raises(WorkerLost, match=r"late: no answer for 5 s while loading"):
        collect(asked, 5.0, "loading")
    ray.kill(late)


def test_who_died_is_named(actors):
    doomed = ray.remote(Answerer).remote()
    with pytest.raises(WorkerLost, match="doomed died while training step 3"):
        collect({"doomed": doomed.die.remote()}, 60.0, "training step 3")
