"""Which Ray is joined or started, with what, and again if it was late."""

import socket

import pytest
import ray

from orchestrator import cluster
from orchestrator.config import load_run
from orchestrator.errors import ResourcesError

LATE = "The current node timed out during startup. This could happen because some of the raylet"


class Broken(Exception):
    """As Ray raises it: no type of its own."""


@pytest.mark.parametrize(("message", "late", "starts"), [(LATE, 2, 3), (LATE, 9, 3), ("no", 1, 1)])
def test_a_late_start_is_tried_three_times(monkeypatch, message, late, starts):
    seen = []

    def init(**options):
        seen.append(options)
        if len(seen) <= late:
            raise Broken(message)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    if late < starts:
        with cluster.running(load_run("smoke.yaml")) as machine:
            assert machine.num_gpus == 0
    else:
        with pytest.raises(Broken, match=message), cluster.running(load_run("smoke.yaml")):
            pass
    assert len(seen) == starts
    assert all(options == seen[0] for options in seen)


@pytest.mark.parametrize(
    ("asked", "variable", "address"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        ("local", "10.0.0.1:6379", None),
        ("", None, None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "local", None),
        ("auto", None, "auto"),
    ],
)
def test_a_cluster_is_joined_only_if_one_is_named(monkeypatch, asked, variable, address):
    seen = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr(cluster, "_check_answers", lambda address: None)
    monkeypatch.setattr(ray, "init", lambda **options: seen.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])
    more = [] if asked is None else [f"resources.address='{asked}'"]
    with cluster.running(load_run("smoke.yaml", more)):
        pass
    (options,) = seen
    if address is None:
        assert options["address"] == "local"
        assert options["_node_ip_address"] == "127.0.0.1"
        assert options["include_dashboard"] is False
    else:
        assert options["address"] == address
        assert "include_dashboard" not in options


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_answers_is_said_at_once(monkeypatch, scheme):
    with socket.socket() as bound:  # not listening
        bound.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
        with (
            pytest.raises(ResourcesError, match=f"no Ray answers at {address} .*RAY_ADDRESS"),
            cluster.running(load_run("smoke.yaml")),
        ):
            pass


def test_threads_are_dealt_from_one_node(monkeypatch):
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(cluster, "_check_answers", lambda address: None)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 20.0, "GPU": 1.0})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with cluster.running(load_run("smoke.yaml")) as machine:
        assert machine == cluster.Machine(num_cpus=16, num_gpus=1.0)
