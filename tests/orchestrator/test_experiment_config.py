"""What an experiment file may say, which trainings it makes, and what is refused where."""

from pathlib import Path

import pytest

from orchestrator.config import load_experiment, load_run
from orchestrator.config.shipped import find_experiment, shipped_experiments
from orchestrator.config.yaml_text import dump_yaml
from orchestrator.errors import ConfigError
from orchestrator.experiment.plan import parts_of, plan, with_all_teachers
from orchestrator.experiment.results import is_part
from orchestrator.recipes import copy_recipe

ALM = {"name": "sentencepiece", "methods": [{"name": "alm", "temperature": 2.0}]}
KL = {"name": "bytelevel", "methods": [{"name": "kl", "weight": 2.0}]}
BOTH = {"name": "both", "teachers": [KL, ALM]}


def experiment(tmp_path: Path, **changed):
    values = {
        "run": "smoke.yaml",
        "arms": [{"name": "ce"}, BOTH],
        "output_dir": str(tmp_path / "e"),
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(dump_yaml(values | changed))
    return load_experiment(path)


def refusal(tmp_path: Path, **changed) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(experiment(tmp_path, **changed))
    return str(caught.value)


@pytest.mark.parametrize("name", shipped_experiments())
def test_shipped(name, tmp_path):
    found = load_experiment(name)
    assert plan(found)
    assert load_experiment(copy_recipe(name, tmp_path)) == found


def test_shipped_are_found_by_path_and_by_name():
    root = Path(__file__).parents[2]
    assert find_experiment("experiments/smoke.yaml") == root / "configs/experiments/smoke.yaml"
    assert find_experiment(root / "configs/experiments/smoke.yaml").is_file()
    with pytest.raises(ConfigError, match="expected an experiment file, or one that comes with"):
        find_experiment("smoke.yaml")


class TestPlan:
    def test_seed_by_seed(self, tmp_path):
        arms = [{"name": "ce"}, BOTH | {"seeds": [0, 7]}]
        trials = plan(experiment(tmp_path, arms=arms, seeds=[0, 1]))
        assert [t.title for t in trials] == ["ce seed 0", "both seed 0", "ce seed 1", "both seed 7"]
        assert [t.config.train.seed for t in trials] == [0, 0, 1, 7]
        assert trials[1].folder == tmp_path / "e" / "arms" / "both" / "seed-0"
        # The gates are left to an arm's first seed.
        assert [t.config.checks.documents for t in trials] == [4, 4, 0, 0]

    def test_arm_is_the_run_file_with_its_own_methods(self, tmp_path):
        arm = BOTH | {"overrides": ["mixture.ce_weight=0", "train.learning_rate=1e-4"]}
        overrides = ["train.max_steps=3", "teachers.bytelevel.token_budget=99"]
        (trial, *_) = plan(experiment(tmp_path, arms=[arm], overrides=overrides))
        config, base = trial.config, load_run("smoke.yaml")
        assert (config.mixture.ce_weight, config.train.learning_rate) == (0, 1e-4)
        assert (config.train.max_steps, config.teachers[0].token_budget) == (3, 99)
        assert config.teachers[0].methods[0].weight == 2.0
        assert config.teachers[1].weight == base.teachers[1].weight
        assert config.compare.ce_only is None
        assert config.student == base.student

    def test_each_combination_of_methods_is_asked_once(self, tmp_path):
        heavy = {"name": "heavy", "teachers": [KL | {"weight": 3.0}]}
        other = {
            "name": "other",
            "teachers": [ALM | {"methods": [{"name": "alm"}, {"name": "gold"}]}],
        }
        trials = plan(experiment(tmp_path, arms=[{"name": "ce"}, BOTH, heavy, other]))
        parts = parts_of(trials)
        names = {n: [[type(m).__name__ for m in p] for p in ps] for n, ps in parts.items()}
        assert names == {"bytelevel": [["Kl"]], "sentencepiece": [["Alm"], ["Alm", "Gold"]]}
        assert [t.name for t in with_all_teachers(trials).teachers] == [
            "bytelevel",
            "sentencepiece",
        ]

    def test_parts_of_an_arm(self, tmp_path):
        arms = [
            BOTH,
            {"name": "kl", "teachers": [KL]},
            {"name": "heavier", "teachers": [KL | {"weight": 3.0}]},
            {"name": "alone", "teachers": [KL], "overrides": ["mixture.ce_weight=0"]},
            {"name": "ce"},
        ]
        configs = {t.arm: t.config for t in plan(experiment(tmp_path, arms=arms, seeds=[0]))}
        assert [name for name, c in configs.items() if is_part(c, configs["both"])] == ["kl"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"arm": []}, 'arm: unknown key, did you mean "arms"?'),
            ({"arms": []}, "arms: [] is not allowed; expected a list"),
            ({"seeds": [0, 0]}, 'seeds: "0" appears more than once; expected each seed once'),
            ({"seeds": [0.5]}, "seeds[0]: 0.5 is not allowed; expected a whole number"),
            ({"baseline": "cee"}, 'baseline: unknown arm, did you mean "ce"?'),
            ({"comparisons": [["ce"]]}, "comparisons[0]: 1 arms; expected a list of two arms"),
            (
                {"comparisons": [["ce", "bth"]]},
                'comparisons[0][1]: unknown arm, did you mean "both"?',
            ),
            (
                {"arms": [{"name": "a/b"}]},
                'arms[0] (a/b).name: "a/b" is not a name; expected letters',
            ),
            (
                {"arms": [BOTH, BOTH]},
                'arms: "both" appears more than once; expected each name once',
            ),
            (
                {"arms": [{"name": "x", "teachers": [KL | {"methods": [{"name": "kll"}]}]}]},
                'arms[0] (x).teachers[0].methods[0].name: unknown method, did you mean "kl"?',
            ),
            (
                {"arms": [{"name": "x", "teachers": [KL | {"name": "bytelevl"}]}]},
                'arms[0] (x).teachers[0].name: unknown teacher, did you mean "bytelevel"?',
            ),
            (
                {"arms": [{"name": "x", "overrides": ["train.max_step=1"]}]},
                'train.max_step: unknown key, did you mean "max_steps"?',
            ),
            (
                {"overrides": ["train.max_steps"]},
                'override "train.max_steps": expected key.sub=value',
            ),
            ({"run": "nothing.yaml"}, "nothing.yaml: no such file; expected a run file"),
        ],
    )
    def test_by_path(self, tmp_path, changed, message):
        assert message in refusal(tmp_path, **changed)

    @pytest.mark.parametrize(
        "override",
        [
            "data.max_length=64",
            "student.dtype=bfloat16",
            "teachers.bytelevel.dtype=bfloat16",
            "train.max_steps=3",
            "train.global_batch=4",
            "train.seed=3",
            "output_dir=elsewhere",
        ],
    )
    def test_arms_share_student_text_and_steps(self, tmp_path, override):
        text = refusal(tmp_path, arms=[BOTH | {"overrides": [override]}])
        key = override.partition("=")[0]
        assert f"arms[0] (both).overrides: {key} is the same in all arms" in text

    def test_nothing_to_train_on(self, tmp_path):
        arm = {"name": "ce", "overrides": ["mixture.ce_weight=0"]}
        assert "arms[0] (ce): 1 problem" in refusal(tmp_path, arms=[arm])


def test_weights_by_document_need_live_teachers(tmp_path):
    arms = [{"name": "ce"}, BOTH | {"overrides": ["mixture.weights=confidence"]}]
    assert "arms[1] (both): mixture.weights of this kind" in refusal(tmp_path, arms=arms)
    assert plan(experiment(tmp_path, arms=arms, remember=False))
