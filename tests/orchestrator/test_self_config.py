"""Teachers of kind ``self``, adapters and stages in the run file: what goes together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from losses.document import text_document
from orchestrator.attendance import Attendance
from orchestrator.cluster import Machine, cpus_asked
from orchestrator.config import RunConfig, parse_run
from orchestrator.config.load import to_yaml
from orchestrator.config.yaml_text import parse_yaml
from orchestrator.data import prepare
from orchestrator.errors import ConfigError
from orchestrator.processes import everyone, renewal_of
from orchestrator.setup import doubts_about
from orchestrator.shared import TeacherInside
from orchestrator.specs import engine_options, student_spec, teacher_specs
from orchestrator.student.stages import Stage


def run_file(**changed: Any) -> dict[str, Any]:
    """A byte student that learns from itself; ``teacher``, ``student`` and ``train`` add keys."""
    teacher = {"name": "own", "kind": "self", "methods": [{"name": "alm"}]}
    return {
        "student": {"init": "org/model", "tokenizer": "bytes"} | changed.pop("student", {}),
        "teachers": [teacher | changed.pop("teacher", {})],
        "data": {"train": ["train.jsonl"], "held_out": ["held_out.jsonl"]},
        "train": {"max_steps": 10} | changed.pop("train", {}),
        "output_dir": "runs/x",
    } | changed


def config_of(**changed: Any) -> RunConfig:
    return parse_run(run_file(**changed), "run.yaml")


def problem(**changed: Any) -> str:
    """The one thing that is wrong."""
    with pytest.raises(ConfigError) as caught:
        config_of(**changed)
    head, *lines = str(caught.value).splitlines()
    assert head == "run.yaml: 1 problem", lines
    return lines[0].strip()


LORA = {"lora": {"rank": 4}}


def test_a_self_teacher_is_written_and_read_again(tmp_path):
    config = config_of(student=LORA, teacher={"share_weights": True})
    assert config.teachers[0].model is None
    assert config.student.transfers
    assert config.student.lora.target_modules[0] == "q_proj"
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert parse_run(parse_yaml((tmp_path / "run.yaml").read_text(), "run.yaml")) == config


@pytest.mark.parametrize("key", ["model", "revision"])
def test_it_has_no_model_of_its_own(key):
    expected = f"teachers[0] (own).{key}: a teacher of kind self is the student's own init"
    assert problem(teacher={key: "org/model"}).startswith(expected)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"teacher": {"share_weights": True}}, "needs student.lora"),
        (
            {"student": LORA | {"keep_layers": [0]}, "teacher": {"share_weights": True}},
            "lacks layers",
        ),
        (
            {"student": LORA, "teacher": {"share_weights": True, "dtype": "bfloat16"}},
            "expected dtype as in student.dtype",
        ),
        ({"student": LORA, "teacher": {"share_weights": True, "threads": 2}}, "leave its device"),
        (
            {
                "student": LORA,
                "teacher": {"share_weights": True},
                "deepspeed": {"zero_optimization": {"stage": 3}},
                "train": {"micro_batch": 8},
            },
            "under ZeRO-3 is not in this release",
        ),
        (
            {"student": LORA, "teacher": {"share_weights": True, "refresh": {}}},
            "never changes; leave it or refresh out",
        ),
        ({"teacher": {"refresh": {"every": 2}}}, "student.tokenizer differs from student.init"),
        (
            {"student": LORA | {"tokenizer": None}, "teacher": {"refresh": {}}},
            "refresh with student.lora is not in this release",
        ),
        (
            {
                "student": LORA | {"tokenizer": None},
                "train": {"stages": [{"steps": 10, "trainable": "embeddings"}]},
            },
            "with student.lora the embeddings are trained only where",
        ),
        (
            {"train": {"stages": [{"steps": 4}, {"steps": 7}]}},
            "train.stages: their steps sum up to 11, but train.max_steps is 10",
        ),
        (
            {"train": {"stages": [{"steps": 2}, {"steps": 8}], "warmup_steps": 2}},
            "train.stages[0].steps: train.warmup_steps = 2 never ends within the 2 steps",
        ),
        (
            {"student": {"tokenizer": "org/other", "embeddings": {"ngrams": True}}},
            "ngrams is true, but the tokenizer is not bytes",
        ),
    ],
)
def test_what_does_not_go_together(changed, words):
    assert words in problem(**changed)


def test_stages_reach_the_engine():
    stages = [{"steps": 4, "trainable": "embeddings", "learning_rate": 0.5}, {"steps": 6}]
    options = engine_options(config_of(train={"stages": stages}))
    assert options.stages == (Stage(4, embeddings_only=True, learning_rate=0.5), Stage(6))


class TestProcesses:
    """Who has a process of its own, and what the driver asks instead of one."""

    MACHINE = Machine(num_cpus=4, num_gpus=0.0)

    @pytest.fixture
    def init(self, tokenizers, tmp_path) -> dict[str, Any]:
        LlamaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
        tokenizers["bytelevel"].fast.save_pretrained(tmp_path)
        return {"init": str(tmp_path), "tokenizer": None}

    def test_a_shared_teacher_has_none(self, init, tokenizers):
        config = config_of(student=LORA | init, teacher={"share_weights": True})
        vocabulary = tokenizers["bytelevel"].vocabulary
        assert config.teacher_actors == ()
        assert cpus_asked(config) == config.student.resources.cpus
        assert teacher_specs(config, self.MACHINE) == []
        spec = student_spec(config, self.MACHINE, {"own": vocabulary})
        assert (spec.shared.name, spec.shared.source.path) == ("own", init["init"])
        assert spec.threads == 4
        teachers = everyone(config, {}, {"student/0": None})
        assert isinstance(teachers["own"], TeacherInside)

    def test_an_ordinary_one_has_one(self, init, tokenizers):
        config = config_of(student=init)
        assert cpus_asked(config) == 2 * config.student.resources.cpus
        (teacher,) = teacher_specs(config, self.MACHINE)
        assert not teacher.follows
        vocabularies = {"own": tokenizers["bytelevel"].vocabulary}
        assert student_spec(config, self.MACHINE, vocabularies).shared is None
        assert everyone(config, {"own": "an actor"}, {"student/0": None}) == {"own": "an actor"}
        assert renewal_of(config, Path("run"), {"own": "an actor"}, {}, Attendance()) is None

    def test_one_that_follows_the_student(self, init):
        refresh = {"every": 3, "decay": 0.5}
        config = config_of(student=init, teacher={"refresh": refresh, "dtype": "bfloat16"})
        (teacher,) = teacher_specs(config, self.MACHINE)
        assert teacher.follows
        assert engine_options(config).average_decay == 0.5
        ranks = {"student/0": "a rank"}
        renewal = renewal_of(config, Path("run"), {"own": "an actor"}, ranks, Attendance())
        assert (renewal.every, renewal.dtype) == (3, torch.bfloat16)
        assert [step for step in range(7) if renewal.is_due(step)] == [0, 3, 6]


def test_documents_cut_to_bytes_are_told(tokenizers):
    documents = [text_document("long", "ab" * 40), text_document("short", "ab")]
    tokenizer = tokenizers["bytelevel"]
    train = prepare(documents, [tokenizer], 8)
    told = [
        doubts_about(config_of(student={"tokenizer": name}), tokenizer, train, train)
        for name in ("bytes", "org/other")
    ]
    words = "data.max_length: 1 of 2 training documents are cut to 512 bytes"
    assert [any(words in line for line in lines) for lines in told] == [True, False]
