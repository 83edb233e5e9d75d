"""Waiting for actors: failures come early, with the right name and the right error."""

import os
import signal
import time

import pytest
import ray

from orchestrator.actors import collect
from orchestrator.errors import WorkerLost

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def answerer():
    """The class of an actor that answers, sleeps, raises or dies, as told.

    A class of a function travels whole: the actors need not import this file, and torch with it.
    """

    class Answerer:
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

    return ray.remote(Answerer)


@pytest.fixture(scope="module")
def actors(shared_ray, answerer):
    ray.init(log_to_driver=False)
    made = {name: answerer.remote() for name in ("a", "b", "c")}
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
    with pytest.raises(ValueError, match="document d7 is broken") as caught:
        collect({"c": actors["c"].pass_on.remote([failing])}, 60.0, "testing")
    assert type(caught.value) is ValueError


def test_who_is_late_is_named(actors):
    asked = {"b": actors["b"].answer.remote(1), "c": actors["c"].sleep.remote(60)}
    with pytest.raises(WorkerLost, match=r"^c: no answer for 2 s while loading"):
        collect(asked, 2.0, "loading")


def test_who_died_is_named(actors):
    with pytest.raises(WorkerLost, match="b died while training step 3"):
        collect({"b": actors["b"].die.remote()}, 60.0, "training step 3")
