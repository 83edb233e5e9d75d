"""Who shares a GPU, whether they fit on it together, and what a refusal says."""

import pytest

from orchestrator.planning.gpus import CONTEXT, Layout, gpu_limits, lay_out
from orchestrator.planning.hardware import GIB, Hardware
from orchestrator.planning.limits import DRIVER, IMPORTS, RAY, Limit, host_limit
from orchestrator.planning.memory import Memory
from orchestrator.planning.plan import _workers
from orchestrator.planning.processes import ProcessPlan
from orchestrator.planning.timing import step_time


def process(gpus, peak=GIB, count=1, seconds=1.0, host=0, threads=0):
    memory = Memory(peak, "signals", {"weights": peak})
    return ProcessPlan(count, gpus, threads, None, memory, host, 0.0, seconds)


def test_fractions_fill_a_gpu_before_the_next():
    found = lay_out({"a": process(0.5), "b": process(0.4), "student": process(0.5, count=2)}, 4.0)
    assert found == Layout((("a", "b"), ("student", "student"), (), ()))


def test_a_model_on_two_gpus_has_them_alone():
    found = lay_out({"a": process(0.5), "big": process(2.0), "student": process(1.0)}, 4.0)
    assert found.on == (("a",), ("big",), ("big",), ("student",))


def test_gpus_that_there_are_not():
    found = lay_out({"a": process(2.0, count=2), "student": process(1.0)}, 3.0)
    assert found.missing == 2.0
    assert lay_out({"a": process(1 / 3, count=3)}, 1.0).missing == 0.0


def test_those_on_one_gpu_fit_together_or_not():
    """One may take more than its fraction, if the others leave it."""
    both = {"a": process(0.5, 2 * GIB), "student": process(0.5, 6 * GIB)}
    [(limit, names)] = gpu_limits(lay_out(both, 1.0), both, 9 * GIB)
    assert (limit.name, names) == ("GPU 0 (a + student)", ("a", "student"))
    assert limit.needed == 8 * GIB + 2 * CONTEXT == limit.available
    assert not limit.is_broken


def test_gpus_alike_come_once():
    ranks = {"student": process(1.0, count=3)}
    [(limit, _)] = gpu_limits(lay_out(ranks, 3.0), ranks, GIB)
    assert limit.name == "GPU 0 and 2 like it (student)"
    assert limit.is_broken


def test_in_turns_only_the_largest_counts():
    both = {"a": process(0.5, 2 * GIB), "student": process(0.5, 6 * GIB), "c": process(0.0)}
    [(limit, names)] = gpu_limits(lay_out(both, 1.0, in_turns=True), both, 7 * GIB)
    assert names == ("a", "student")
    assert limit.needed == 6 * GIB + 2 * CONTEXT


def test_what_waits_for_its_turn_is_on_the_host():
    both = {"a": process(0.5, host=3 * GIB), "student": process(0.0, 2 * GIB, count=2)}
    found = host_limit(both, 7, GIB)
    imports = IMPORTS["teacher"] + 2 * IMPORTS["student"]
    assert found.needed == DRIVER + RAY + 7 + 3 * GIB + 2 * 2 * GIB + imports


@pytest.mark.parametrize(
    ("in_turns", "num_gpus", "seconds", "binds"),
    [
        (False, 2.0, 3.0, "GPU 0, shared by a, b"),
        (True, 2.0, 5.0, "GPU 0, shared by a, b, student"),
    ],
)
def test_processes_on_one_gpu_share_its_time(in_turns, num_gpus, seconds, binds):
    processes = {
        "a": process(0.5, seconds=1.5),
        "b": process(0.5, seconds=1.5),
        "student": process(1.0, seconds=2.0),
    }
    hardware = Hardware(8, GIB, num_gpus, GIB)
    layout = lay_out(processes, num_gpus, in_turns=in_turns)
    found = step_time(dict(_workers(processes, layout, hardware)))
    assert (found.seconds, found.binds) == (seconds, binds)


def test_processes_on_a_host_share_its_cores(monkeypatch):
    """Two replicas and a student want 2 + 2 of 2 cores: 4 core-seconds of 3 s and 1 s of work."""
    monkeypatch.setattr("orchestrator.planning.plan.cores", lambda threads: float(min(threads, 2)))
    processes = {
        "a": process(0.0, count=2, seconds=3.0, threads=1),
        "student": process(0.0, seconds=1.0, threads=4),
    }
    found = step_time(dict(_workers(processes, Layout(()), Hardware(4, GIB, 0.0, 0))))
    assert found.seconds == 3.0 * 2 / 2 + 1.0 * 2 / 2
    assert found.binds == "CPU, shared by a, student"


def test_a_server_takes_no_time_that_is_known():
    processes = {"served": process(0.0, seconds=0.0, threads=1), "s": process(0.0, threads=1)}
    workers = dict(_workers(processes, Layout(()), Hardware(4, GIB, 0.0, 0)))
    assert list(workers) == ["s"]


def test_a_number_of_gpus_in_words():
    limit = Limit("the GPUs' number", 5, 4, ("take more",), unit="GPUs")
    assert str(limit) == "the GPUs' number needs 5 of 4 GPUs; take more"
