"""Two Ray nodes on one host, with GPUs that are only declared: what lies where, and a real run."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.experimental.locations import get_local_object_locations

from losses.document import text_document
from orchestrator import placement
from orchestrator.ahead import sizes_of
from orchestrator.cluster import running
from orchestrator.config import load_run
from orchestrator.errors import ResourcesError
from orchestrator.placement import placed
from orchestrator.replicas import Parts, Replicas, fetch
from orchestrator.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HOLD_TWO_NODES = """
import sys
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray.cluster_utils import Cluster
from tenacity import retry, stop_after_attempt

ensure_token_if_auth_enabled(None, create_token_if_missing=True)  # as ray.init does it

@retry(stop=stop_after_attempt(3), reraise=True)  # Ray gives a node 30 s to start
def head():
    return Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "num_gpus": 1, "labels": {"zone": "a"},
                        "include_dashboard": False},
    )

@retry(stop=stop_after_attempt(3), reraise=True)
def second(cluster):
    cluster.add_node(num_cpus=4, num_gpus=2, labels={"zone": "b"}, resources={"attic": 1})

cluster = head()
second(cluster)
print(cluster.address, flush=True)
sys.stdin.read()
"""
"""The nodes live as long as this process, and this process as long as we do."""


@pytest.fixture(scope="module")
def two_nodes():
    """Where the two nodes answer."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    options = {"RAY_prestart_worker_first_driver": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_TWO_NODES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | options,
    ) as holder:
        address = holder.stdout.readline().strip()
        assert address, "the nodes did not start"
        yield address


@pytest.fixture(scope="module")
def two_teachers(two_nodes, tmp_path_factory):
    """The smoke run with one teacher's replicas in zone b, and everything else in zone a."""
    attic = {"replicas": 2, "cpus": 0.5, "labels": {"zone": "b"}, "custom": {"attic": 0.5}}
    house = {"labels": {"zone": "a"}}
    folder = tmp_path_factory.mktemp("cluster")
    return load_run(
        "smoke.yaml",
        [
            f"resources.address={two_nodes}",
            f"teachers.bytelevel.resources={json.dumps(attic)}",
            f"teachers.sentencepiece.resources={json.dumps(house)}",
            f"student.resources={json.dumps(house)}",
            f"output_dir={folder}/run",
            "compare.ce_only=null",
            "data.held_out_limit=4",
            "train.max_steps=3",
            "train.prefetch_bytes=10000000",
        ],
    )


@pytest.fixture(scope="module")
def where():
    """The class of an actor that says where it is, and sends or reads arrays.

    A class of a function travels whole: the actors need not import this file.
    """

    class Where:
        def place(self):
            return ray.get_runtime_context().get_node_id(), sorted(ray.get_gpu_ids())

        def signals(self, documents):
            return [np.full(300_000, len(d.content), dtype=np.uint8) for d in documents]

        def read(self, parts):
            return [int(array[0]) for array in fetch(parts[0], 30.0)]

    return ray.remote(Where)


def with_gpus(config, **gpus):
    """The run file with these GPUs for its teachers and its student."""
    teachers = tuple(
        t.model_copy(
            update={
                "resources": t.resources.model_copy(update={"gpus": gpus.get(t.name, 0.0)}),
                "device": "auto",
            }
        )
        for t in config.teachers
    )
    resources = config.student.resources.model_copy(update={"gpus": gpus.get("student", 0.0)})
    student = config.student.model_copy(update={"resources": resources, "device": "auto"})
    return config.model_copy(update={"teachers": teachers, "student": student})


def copies_of(references):
    """Where the objects are, once the news of two copies of each have come, or 20 s later."""
    deadline = time.monotonic() + 20
    while True:
        found = get_local_object_locations(list(references))
        told = all(len(found[reference]["node_ids"]) == 2 for reference in references)
        if told or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


@pytest.fixture(scope="module")
def signals_across(two_teachers, where):
    """Places of four actors on declared GPUs, and what one read that others had sent."""
    config = with_gpus(two_teachers, bytelevel=1.0, sentencepiece=0.5, student=0.5)
    with running(config) as machine, placed(config, machine) as found:
        teachers = [where.options(**found.teacher("bytelevel", i)).remote() for i in range(2)]
        other = where.options(**found.teacher("sentencepiece")).remote()
        student = where.options(**found.rank(0)).remote()
        places = ray.get([actor.place.remote() for actor in (*teachers, other, student)])
        zones = {node["NodeID"]: node["Labels"]["zone"] for node in ray.nodes()}
        documents = [text_document(str(i), "x" * (i + 1)) for i in range(4)]
        answer = Replicas(teachers).signals.remote(documents)
        read = ray.get(student.read.remote([answer]))
        sizes = sizes_of(answer.references)
        copies = copies_of(answer.references)
    return places, zones, answer, read, sizes, copies


def test_each_process_lies_where_its_labels_say(signals_across):
    places, zones, *_ = signals_across
    assert [zones[node] for node, _ in places] == ["b", "b", "a", "a"]


def test_halves_share_a_gpu_and_whole_ones_do_not(signals_across):
    (_, first), (_, second), (_, other), (_, student) = signals_across[0]
    assert sorted([*first, *second]) == [0, 1]
    assert other == student == [0]


def test_signals_cross_the_nodes_in_order(signals_across):
    _, _, answer, read, *_ = signals_across
    assert isinstance(answer, Parts)
    assert read == [1, 2, 3, 4]


def test_sizes_are_known_without_opening(signals_across):
    *_, answer, _, sizes, copies = signals_across
    assert len(answer.references) == 2
    assert [round(size / 300_000) for size in sizes] == [3, 1]
    assert all(len(copies[reference]["node_ids"]) == 2 for reference in answer.references)


def test_what_cannot_be_placed_is_refused_at_once(two_teachers):
    config = with_gpus(two_teachers, bytelevel=8.0)
    with running(config) as machine:
        start = time.perf_counter()
        with (
            pytest.raises(ResourcesError, match=r"bytelevel/0 asks for CPU 0\.5, GPU 8, attic"),
            placed(config, machine),
        ):
            pass
    assert time.perf_counter() - start < 5


def test_a_busy_cluster_is_not_waited_for_without_end(two_teachers, monkeypatch):
    monkeypatch.setattr(placement, "PATIENCE_S", 2)
    with (
        running(two_teachers) as machine,
        placed(two_teachers, machine),
        pytest.raises(ResourcesError, match=r"could not be placed within 2 s.*attic 0\. "),
        placed(two_teachers, machine),
    ):
        pass


def test_a_run_on_two_nodes_with_replicas(two_teachers):
    summary = train(two_teachers)
    folder = Path(two_teachers.output_dir)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(3))
    assert all(math.isfinite(line["loss"]) for line in lines)
    for name in ("bytelevel", "sentencepiece"):
        assert sum(line.get(f"teacher/{name}/busy_s", 0.0) for line in lines) > 0
        assert all(line.get(f"teacher/{name}/idle_s", 0.0) >= 0 for line in lines)
    assert summary.bits_per_byte.teachers.keys() == {"bytelevel", "sentencepiece"}
