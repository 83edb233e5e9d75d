"""Ray is started again if it was late, and not if it failed otherwise."""

import pytest
import ray

from orchestrator import cluster
from orchestrator.config import load_run

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
