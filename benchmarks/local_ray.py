"""A Ray of its own for a benchmark, as a run starts it: on loopback, without dashboard."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def local_ray(num_cpus: int = 1) -> Iterator[None]:
    """Ray runs here until the end, whatever else runs on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        num_cpus=num_cpus,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield
    finally:
        ray.shutdown()
