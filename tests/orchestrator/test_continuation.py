"""A resumed run is the run that was started, or it is refused with what differs."""

import logging
from fnmatch import fnmatchcase

import pytest

from orchestrator.config import RunConfig, load_run
from orchestrator.continuation import FREE, REGROUPING, changed_keys, check_continuation
from orchestrator.errors import ConfigError
from orchestrator.run_folder import (
    folder_to_resume,
    locked,
    open_run_folder,
    renew_run_folder,
)


def smoke(*overrides: str) -> RunConfig:
    return load_run("smoke.yaml", overrides)


def test_nothing_changed():
    assert changed_keys(smoke(), smoke()) == {}
    check_continuation(smoke(), smoke())


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.learning_rate=1e-4", "train.learning_rate: 0.003 -> 0.0001"),
        ("train.seed=1", "train.seed: 0 -> 1"),
        ("train.global_batch=16", "train.global_batch: 8 -> 16"),
        ("train.lr_schedule=linear", 'train.lr_schedule: "constant" -> "linear"'),
        ("student.init=other/model", 'student.init: "asset:toy/student" -> "other/model"'),
        ("student.dtype=bfloat16", 'student.dtype: "float32" -> "bfloat16"'),
        ("teachers.bytelevel.weight=2", "teachers.bytelevel.weight: 1.0 -> 2.0"),
        (
            "teachers.sentencepiece.methods.alm.temperature=3",
            "teachers.sentencepiece.methods.alm.temperature: 2.0 -> 3.0",
        ),
        ("data.max_length=64", "data.max_length: 128 -> 64"),
        ("data.held_out=[h.jsonl]", "data.held_out:"),
        ("compare.ce_only=null", "compare.ce_only: absent -> null"),
        ("deepspeed={prescale_gradients: true}", "deepspeed.prescale_gradients: absent -> true"),
    ],
)
def test_other_mathematics_is_refused(override, line):
    with pytest.raises(ConfigError, match="another output_dir") as caught:
        check_continuation(smoke(), smoke(override))
    assert line in str(caught.value)


def test_all_differences_are_listed():
    with pytest.raises(ConfigError) as caught:
        check_continuation(smoke(), smoke("train.seed=1", "train.weight_decay=0.5"))
    assert [line for line in str(caught.value).splitlines() if line.startswith("  ")] == [
        "  train.seed: 0 -> 1",
        "  train.weight_decay: 0.0 -> 0.5",
    ]


def test_teachers_that_come_and_go_are_named():
    found = changed_keys(smoke(), smoke("teachers=[]", "compare.ce_only=null"))
    assert found["teachers.bytelevel.name"] == '"bytelevel" -> absent'


@pytest.mark.parametrize(
    "override",
    [
        "train.max_steps=99",
        "train.save_steps=4",
        "train.save_total_limit=2",
        "train.logging_steps=2",
        "train.timeout_s=60.0",
        "train.prefetch=3",
        "student.resources.cpus=2.0",
        "output_dir=elsewhere",
    ],
)
def test_how_it_is_carried_out_may_change(override, caplog):
    check_continuation(smoke(), smoke(override))
    assert not caplog.records


@pytest.mark.parametrize(
    "override",
    [
        "train.micro_batch=2",
        "student.num_ranks=2",
        "student.gradient_checkpointing=true",
        "student.threads=2",
        "teachers.bytelevel.threads=2",
        "teachers.bytelevel.token_budget=100",
        "deepspeed={zero_optimization: {stage: 2}}",
    ],
)
def test_other_order_of_sums_is_told(override, caplog):
    with caplog.at_level(logging.WARNING):
        check_continuation(smoke(), smoke(override))
    assert "to rounding" in caplog.text


def test_schedule_of_another_length_is_told(caplog):
    linear = "train.lr_schedule=linear"
    check_continuation(smoke(linear), smoke(linear, "train.max_steps=30"))
    assert "train.max_steps: 20 -> 30; the learning rate follows the linear" in caplog.text


def test_every_pattern_names_a_key():
    """A renamed key must not silently become one that may never change."""
    keys = set(changed_keys(smoke(), smoke(*NON_DEFAULT)))
    for pattern in (*FREE, *REGROUPING):
        assert any(fnmatchcase(key, pattern) for key in keys), pattern


NON_DEFAULT = [
    "output_dir=x",
    "faults.teacher_restarts=1",
    "resources.placement=spread",
    "student.resources.custom={disk: 1.0}",
    "student.resources.labels={zone: a}",
    "student.threads=2",
    "teachers.bytelevel.device=auto",
    "teachers.bytelevel.threads=2",
    "teachers.bytelevel.token_budget=100",
    "teachers.bytelevel.record=y",
    "teachers.bytelevel.resources.cpus=2.0",
    "teachers.bytelevel.resources.custom={disk: 1.0}",
    "teachers.bytelevel.resources.labels={zone: a}",
    "teachers.bytelevel.resources.gpus=0.5",
    "teachers.bytelevel.resources.replicas=2",
    "teachers.sentencepiece.kind=cache",
    "teachers.sentencepiece.path=x",
    "teachers.sentencepiece.model_parity=x",
    "teachers.sentencepiece.parity_tolerance=0.1",
    "train.max_steps=99",
    "train.prefetch_bytes=1000000",
    "train.micro_batch=2",
    "train.logging_steps=2",
    "train.prefetch=3",
    "train.save_steps=4",
    "train.save_total_limit=2",
    "train.keep_best=true",
    "data.validation=[v.jsonl]",
    "train.timeout_s=60.0",
    "train.learning_rates_tried=[1.0]",
    "train.gradient_share_steps=1",
    "student.gradient_checkpointing=true",
    "student.num_ranks=2",
    "student.resources.cpus=2.0",
    "student.device=auto",
    "student.resources.gpus=0.5",
    "checks.documents=3",
    "compare.ce_only.learning_rates_tried=[1.0]",
    "deepspeed={zero_optimization: {stage: 2}}",
]


def minimal() -> dict:
    return {
        "student": {"init": "x"},
        "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
        "output_dir": "x",
    }


class TestFolder:
    def test_goes_on(self, tmp_path):
        before = smoke(f"output_dir={tmp_path}/run")
        folder = open_run_folder(before, overwrite=False)
        now = smoke(f"output_dir={tmp_path}/run", "train.max_steps=30")
        assert folder_to_resume(now) == folder
        assert load_run(folder / "resolved.yaml") == before  # only looked at so far
        renew_run_folder(folder, now)
        assert load_run(folder / "resolved.yaml") == now
        kept = list(folder.glob("resolved.until-*.yaml"))
        assert [load_run(path) for path in kept] == [before]

    def test_same_file_leaves_no_copy(self, tmp_path):
        config = smoke(f"output_dir={tmp_path}/run")
        renew_run_folder(open_run_folder(config, overwrite=False), config)
        assert not list((tmp_path / "run").glob("resolved.until-*"))

    def test_no_run(self, tmp_path):
        with pytest.raises(ConfigError, match="holds no run to resume"):
            folder_to_resume(smoke(f"output_dir={tmp_path}/run"))
        assert not (tmp_path / "run").exists()

    def test_other_versions_are_told(self, tmp_path, caplog):
        config = smoke(f"output_dir={tmp_path}/run")
        path = open_run_folder(config, overwrite=False) / "env.json"
        path.write_text(path.read_text().replace('"torch": "2', '"torch": "1'))
        folder_to_resume(config)
        assert "torch: 1" in caplog.text
        assert "deepspeed" not in caplog.text

    def test_only_one_at_a_time(self, tmp_path):
        first = locked(tmp_path)
        with first, pytest.raises(ConfigError, match="another process is"), locked(tmp_path):
            pytest.fail("two at once")
        with locked(tmp_path):
            pass
