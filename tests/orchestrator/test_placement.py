"""What processes ask for, what nodes have, and how a GPU is shared; no Ray here."""

import pytest

from orchestrator.bundles import Bundle, Node, check_room, student_bundles, teacher_bundles
from orchestrator.cluster import Machine, cpus_asked
from orchestrator.config import parse_run
from orchestrator.errors import ResourcesError
from orchestrator.placement import Placement

TEACHER = {"name": "t", "model": "a", "methods": [{"name": "alm"}]}


def run(*teachers, student=None, **more):
    """A run file with these teachers' resources, and the student's."""
    entries = [
        TEACHER | {"name": f"t{i}", "resources": resources} for i, resources in enumerate(teachers)
    ]
    return parse_run(
        {
            "student": {"init": "a"} | (student or {}),
            "teachers": entries,
            "data": {"train": ["a.jsonl"], "held_out": ["b.jsonl"]},
            "output_dir": "o",
            **more,
        }
    )


def bundles(config, num_gpus):
    machine = Machine(num_cpus=8, num_gpus=float(num_gpus))
    return [*teacher_bundles(config, machine), *student_bundles(config, machine)]


def gpus(config, num_gpus):
    return [bundle.amounts.get("GPU", 0.0) for bundle in bundles(config, num_gpus)]


class TestShares:
    @pytest.mark.parametrize(
        ("num_gpus", "share"), [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.5), (4, 1.0), (9, 1.0)]
    )
    def test_a_share_never_spans_two_gpus(self, num_gpus, share):
        config = run({"replicas": 2}, {})
        assert gpus(config, num_gpus) == [share] * 4

    def test_what_is_asked_for_comes_first(self):
        assert gpus(run({"gpus": 1}, {}), 2) == [1.0, 0.5, 0.5]
        assert gpus(run({"gpus": 0.4}, {}), 1) == [0.4, 0.3, 0.3]

    def test_processes_on_the_cpu_take_no_share(self):
        assert gpus(run({}, {}, student={"device": "cpu"}), 2) == [1.0, 1.0, 0.0]

    def test_who_asks_for_none_gets_none(self):
        config = run({"gpus": 0}, {}, student={"resources": {"gpus": 0}})
        assert gpus(config, 0) == [0.0] * 3
        assert gpus(config, 2) == [0.0, 1.0, 0.0]

    def test_nothing_left_is_said(self):
        with pytest.raises(ResourcesError, match=r"all of the 1 GPUs, and 2 processes"):
            gpus(run({"gpus": 1}, {}), 1)

    def test_no_gpu_is_said(self):
        with pytest.raises(ResourcesError, match="Ray sees none"):
            gpus(run({"gpus": 0.5}), 0)


def test_a_bundle_for_each_process():
    resources = {"replicas": 2, "cpus": 0.5, "custom": {"attic": 1}, "labels": {"zone": "b"}}
    config = run(resources, student={"num_ranks": 2})
    found = bundles(config, 0)
    assert [bundle.name for bundle in found] == ["t0/0", "t0/1", "student/0", "student/1"]
    assert found[1] == Bundle("t0/1", {"CPU": 0.5, "attic": 1.0}, {"zone": "b"})
    assert found[2] == Bundle("student/0", {"CPU": 1.0}, {})
    assert cpus_asked(config) == 3.0


NODES = [
    Node("10.0.0.1", {"CPU": 4.0, "GPU": 1.0}, {"zone": "a"}),
    Node("10.0.0.2", {"CPU": 4.0, "GPU": 1.0, "attic": 1.0}, {"zone": "b"}),
]


class TestRoom:
    @pytest.mark.parametrize(
        ("amounts", "labels"),
        [
            ({"CPU": 4.0, "GPU": 1.0}, {}),
            ({"CPU": 1.0, "attic": 1.0}, {"zone": "b"}),
            ({"CPU": 1.0}, {"zone": "in(b, c)"}),  # Ray judges what is more than a value
            ({"CPU": 1.0}, {"zone": "!a"}),
        ],
    )
    def test_what_fits_is_left_to_ray(self, amounts, labels):
        check_room([Bundle("t/0", amounts, labels)], NODES)

    @pytest.mark.parametrize(
        ("amounts", "labels", "text"),
        [
            ({"CPU": 1.0, "GPU": 2.0}, {}, r"t/0 asks for CPU 1, GPU 2, but no node offers that"),
            ({"GPU": 2.0}, {}, r"10\.0\.0\.1 has GPU 1; 10\.0\.0\.2 has GPU 1"),
            ({"CPU": 1.0, "attic": 1.0}, {"zone": "a"}, r"has CPU 4, attic 0, label zone: a"),
            ({"CPU": 1.0}, {"rack": "7"}, r"label rack: 7, but .* label rack: none"),
        ],
    )
    def test_what_no_node_has_is_refused_at_once(self, amounts, labels, text):
        with pytest.raises(ResourcesError, match=text):
            check_room([Bundle("t/0", amounts, labels)], NODES)

    def test_what_all_nodes_together_lack_is_refused_at_once(self):
        asked = [Bundle(f"t/{i}", {"CPU": 1.0, "GPU": 0.75}, {}) for i in range(3)]
        with pytest.raises(ResourcesError, match=r"GPU 2\.25 in all, but the nodes offer 2: t/0"):
            check_room(asked, NODES)


def test_a_process_without_a_claim_goes_where_its_labels_say():
    bundle = Bundle("t/0", {}, {"zone": "b"})
    assert Placement([bundle], None).teacher("t") == {
        "num_cpus": 0.0,
        "num_gpus": 0.0,
        "resources": {},
        "label_selector": {"zone": "b"},
    }
