"""Scale on paper: numbers by hand, and the limits that bind in turn."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling import TABLES, markdown
from losses.methods import method_class
from orchestrator.planning.scaling import (
    DECODERS,
    Cluster,
    Job,
    forecast,
    gpus_for,
    ranks_for,
    read_seconds,
    signal_bytes,
    train_seconds,
)

CLUSTER = Cluster(nodes=4)


def test_seconds_by_hand():
    job = Job(2, "8B", "1B", 12.0, tokens=1_000_000, ranks=8)
    assert read_seconds(job, CLUSTER, 1) == pytest.approx(1e6 * 2 * 8e9 / 4e14)
    rows = 2 * 4096 * 128_256 * 2  # the head of two teachers, as wide as they are
    assert train_seconds(job, CLUSTER) == pytest.approx(1e6 * (6 * 1.2e9 + rows) / (8 * 4e14))
    none = replace(job, heads=0)
    assert train_seconds(none, CLUSTER) == pytest.approx(1e6 * 6 * 1.2e9 / (8 * 4e14))


def test_replicas_keep_the_student_busy():
    job = Job(2, "8B", "8B", 12.0)
    found = forecast(job, Cluster(nodes=16))
    needed = read_seconds(job, CLUSTER, 1) / train_seconds(job, CLUSTER)
    assert found.replicas == math.ceil(needed) == found.replicas_placed
    assert found.binds == "student"


def test_teachers_bind_without_room_for_replicas():
    found = forecast(Job(8, "8B", "1B", 12.0), Cluster(nodes=2))
    assert found.binds == "teachers"
    assert found.replicas_placed == 1


def test_nothing_fits():
    found = forecast(Job(64, "70B", "1B", 12.0), Cluster(nodes=1))
    assert not found.fits
    assert found.step == math.inf


def test_a_slow_network_binds_with_many_bytes():
    slow = Cluster(nodes=16, nic=1e8)
    assert forecast(Job(8, "1B", "1B", 12_304.0), slow).binds == "nic"
    assert forecast(Job(8, "1B", "1B", 12.0), slow).binds != "nic"


def test_one_node_needs_no_network():
    found = forecast(Job(1, "1B", "1B", 12_304.0), Cluster(nodes=1, gpus=16))
    assert found.seconds["nic"] == 0


def test_bytes_double_with_the_teachers():
    one, two = (forecast(Job(n, "1B", "8B", 400.0), CLUSTER).seconds for n in (1, 2))
    assert two["store"] == pytest.approx(2 * one["store"])


def test_gpus_of_a_teacher_and_ranks_of_a_student():
    assert [gpus_for(name, CLUSTER) for name in DECODERS] == [1, 1, 1, 2, 3]
    assert [ranks_for(name, CLUSTER) for name in ("1B", "3B", "8B")] == [1, 1, 4]


def test_signals_of_a_large_teacher():
    assert signal_bytes(method_class("kl")(), "8B") == 2 * 4096 + 12
    assert signal_bytes(method_class("alm")(), "70B") == 12


@pytest.mark.parametrize("title", TABLES)
def test_the_documentation_has_these_numbers(title):
    text = (Path(__file__).resolve().parents[3] / "docs/scaling.md").read_text()
    assert f"## {title}\n" in text
    assert markdown(list(TABLES[title]())) in text
