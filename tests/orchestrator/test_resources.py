"""What ``resources`` may say, of teachers, of the student and of the whole run."""

import pytest

from orchestrator.config import parse_run
from orchestrator.errors import ConfigError

TEACHER = {"name": "t", "model": "a", "methods": [{"name": "alm"}]}
RUN = {
    "student": {"init": "a"},
    "teachers": [TEACHER],
    "data": {"train": ["a.jsonl"], "held_out": ["b.jsonl"]},
    "output_dir": "o",
}


def parsed(**changes):
    return parse_run(RUN | changes)


def teacher(resources, **more):
    return {"teachers": [TEACHER | {"resources": resources} | more]}


def test_defaults_are_one_machine_and_one_process_each():
    config = parsed()
    assert config.resources.model_dump() == {
        "address": None,
        "placement": "pack",
        "offload": False,
    }
    assert config.teachers[0].resources.replicas == 1
    assert config.train.prefetch_bytes is None


@pytest.mark.parametrize(
    "changes",
    [
        teacher({"gpus": 0.25, "replicas": 3, "labels": {"ray.io/accelerator-type": "H200"}}),
        teacher({"gpus": 1, "custom": {"rack_7": 0.5}}),
        teacher({"gpus": 4}, model_options={"device_map": "auto"}),
        {"resources": {"address": "10.0.0.1:6379", "placement": "spread", "offload": True}},
    ],
)
def test_allowed(changes):
    parsed(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"student": {"init": "a", "resources": {"replicas": 2}}},
            "student.resources.replicas: only teachers have replicas; leave it out, or raise "
            "student.num_ranks",
        ),
        (
            {"student": {"init": "a", "resources": {"gpus": 2}}},
            "student: resources.gpus is 2, but a rank trains on one GPU; expected at most 1, and "
            "num_ranks for more",
        ),
        (
            teacher({"gpus": 1.5}),
            "teachers[0] (t).resources.gpus: 1.5 GPUs are not possible; expected a fraction up to "
            "1, or a whole number",
        ),
        (
            teacher({"gpus": 2}),
            "teachers[0] (t).resources.gpus: 2 without a map of the model's layers to them; "
            'expected model_options.device_map, such as "auto", or at most 1',
        ),
        (
            teacher({}, model_options={"device_map": "auto"}),
            "teachers[0] (t).model_options.device_map: it lays a model on several GPUs, but "
            "resources.gpus is not above 1; expected resources.gpus 2 or more, or the key device "
            "in its place",
        ),
        (
            teacher({}, model_options={"tp_plan": "auto"}),
            'teachers[0] (t).model_options: "tp_plan" is not taken here (tensors are split among '
            "processes, but a model here has one: see docs/cluster.md)",
        ),
        (
            {"student": {"init": "a", "model_options": {"device_map": "auto"}}},
            'student.model_options: "device_map" is not taken here (use the key device beside '
            "model_options)",
        ),
        (
            teacher({"custom": {"GPU": 1}}),
            'teachers[0] (t).resources.custom: "GPU" is not taken here (use resources.gpus)',
        ),
        (
            teacher({"replicas": 0}),
            "teachers[0] (t).resources.replicas: 0 is not allowed; expected a whole number, at "
            "least 1",
        ),
        (
            {"resources": {"placement": "tight"}},
            'resources.placement: "tight" is not allowed; expected "pack" or "spread"',
        ),
        (
            {"resources": {"offload": True}, "train": {"prefetch_bytes": 100}},
            "resources.offload: true needs train.prefetch_bytes null: train.prefetch says how "
            "many steps are one turn",
        ),
        (
            {"resources": {"offload": True}} | teacher({"replicas": 2}),
            "resources.offload: true needs teachers with one replica and one GPU at most",
        ),
        (
            {"resources": {"offload": True}, "student": {"init": "a", "num_ranks": 2}},
            "resources.offload: true needs student.num_ranks = 1: the turns are those of one GPU",
        ),
        (
            {
                "resources": {"offload": True},
                "deepspeed": {"zero_optimization": {"stage": 3}},
                "train": {"gradient_share_steps": 0},
            },
            "resources.offload: true needs a stage of ZeRO up to 2",
        ),
    ],
)
def test_refused(changes, text):
    with pytest.raises(ConfigError) as caught:
        parsed(**changes)
    assert str(caught.value).splitlines()[1:] == [f"  {text}"]
