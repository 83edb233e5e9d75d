"""Overrides from the command line."""

from pathlib import Path

import pytest

from orchestrator.config import load_run
from orchestrator.config.overrides import apply_overrides
from orchestrator.errors import ConfigError

RUN = """
student: {init: org/model}
teachers:
  - {name: first, model: a, methods: [{name: kl}]}
  - {name: second, model: b, methods: [{name: kl}, {name: alm}]}
data: {train: [a.jsonl], held_out: [b.jsonl]}
output_dir: runs/x
"""


@pytest.fixture(name="run")
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


class TestValues:
    """Where a value lands."""

    def test_scalars_and_lists(self, run: Path):
        config = load_run(
            run,
            ["train.learning_rate=2e-3", "train.betas=[0.8, 0.9]", "output_dir=runs/a=b"],
        )
        assert config.train.learning_rate == 2e-3
        assert config.train.betas == (0.8, 0.9)
        assert config.output_dir == Path("runs/a=b")

    def test_teacher_by_name(self, run: Path):
        config = load_run(run, ["teachers.second.weight=0.3", "teachers.second.resources.cpus=2"])
        assert [teacher.weight for teacher in config.teachers] == [1.0, 0.3]
        assert config.teachers[1].resources.cpus == 2.0

    def test_method_by_name(self, run: Path):
        config = load_run(run, ["teachers.second.methods.alm.weight=7"])
        assert [entry.weight for entry in config.teachers[1].methods] == [1.0, 7.0]

    def test_no_teachers(self, run: Path):
        assert load_run(run, ["teachers=[]"]).teachers == ()

    def test_below_null(self, run: Path):
        config = load_run(run, ["compare.ce_only=null", "compare.ce_only.learning_rate=1e-4"])
        assert config.compare.ce_only is not None
        assert config.compare.ce_only.learning_rate == 1e-4

    def test_last_one_wins(self, run: Path):
        assert load_run(run, ["train.seed=1", "train.seed=2"]).train.seed == 2

    def test_empty_value_is_null(self):
        assert apply_overrides({"student": {"threads": 2}}, ["student.threads="]) == {
            "student": {"threads": None}
        }

    def test_data_stays_as_it_is(self):
        data = {"teachers": [{"name": "a", "methods": [{"name": "kl"}]}], "train": {"seed": 0}}
        changed = apply_overrides(data, ["teachers.a.methods.kl.weight=2", "train.seed=1"])
        assert changed["teachers"][0]["methods"][0] == {"name": "kl", "weight": 2}
        assert data == {
            "teachers": [{"name": "a", "methods": [{"name": "kl"}]}],
            "train": {"seed": 0},
        }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.seed", 'override "train.seed": expected key.sub=value'),
        ("train..seed=1", 'override "train..seed=1": expected key.sub=value'),
        ("=1", 'override "=1": expected key.sub=value'),
        (
            "teachers.secnd.weight=1",
            'override "teachers.secnd.weight=1": unknown teacher, did you mean "second"?',
        ),
        (
            "teachers.x.weight=1",
            'override "teachers.x.weight=1": unknown teacher; expected one of: first, second',
        ),
        (
            "teachers.second.methods.alms.weight=1",
            'override "teachers.second.methods.alms.weight=1": unknown method, did you mean "alm"?',
        ),
        (
            "teachers.second=1",
            'override "teachers.second=1": expected teachers.second.key=value',
        ),
        (
            "output_dir.x=1",
            "override \"output_dir.x=1\": output_dir is 'runs/x', not a mapping; expected "
            "output_dir=value",
        ),
        (
            "train.betas=[0.9",
            "override \"train.betas=[0.9\", line 1, column 5: expected ',' or ']', but got "
            "'<stream end>'",
        ),
    ],
)
def test_leads_nowhere(run: Path, override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_run(run, [override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.seed=1", 'trian: unknown key, did you mean "train"?'),
        ("train.sed=1", 'train.sed: unknown key, did you mean "seed"?'),
        (
            "teachers.second.wight=1",
            'teachers[1] (second).wight: unknown key, did you mean "weight"?',
        ),
        (
            "train.prefetch=one",
            'train.prefetch: "one" is not allowed; expected a whole number, at least 1',
        ),
        (
            "train.prefetch.x=1",
            'train.prefetch: {"x": 1} is not allowed; expected a whole number, at least 1',
        ),
    ],
)
def test_refused_by_the_schema(run: Path, override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_run(run, [override])
    assert str(caught.value) == f"{run}: 1 problem\n  {message}"
