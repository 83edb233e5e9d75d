"""How much of the gap to the original a training closed, by hand."""

import pytest

from orchestrator.config import RunConfig, parse_run
from orchestrator.gap import gap_recovered, gaps_recovered, original_of

OWN = {"name": "own", "kind": "self", "methods": [{"name": "alm"}]}
OTHER = {"name": "other", "model": "org/model", "methods": [{"name": "alm"}]}


def config(student: dict, *teachers: dict) -> RunConfig:
    values = {
        "student": {"init": "org/model"} | student,
        "teachers": list(teachers),
        "data": {"train": ["train.jsonl"], "held_out": ["held_out.jsonl"]},
        "output_dir": "runs/x",
    }
    return parse_run(values, "run.yaml")


@pytest.mark.parametrize(
    ("student", "original"),
    [
        ({"tokenizer": "bytes"}, "own"),
        ({"drop_layers": [1]}, "own"),
        ({"keep_layers": [0]}, "own"),
        ({}, None),
        ({"tokenizer": "org/model"}, None),
    ],
)
def test_only_a_changed_student_has_an_original(student, original):
    assert original_of(config(student, OTHER, OWN)) == original
    assert original_of(config(student, OTHER)) is None


def test_by_hand():
    changed = config({"tokenizer": "bytes"}, OTHER, OWN)
    after, teachers = {"distilled": 1.5, "ce_only": 2.25}, {"own": 1.0, "other": 0.5}
    gaps = gaps_recovered(changed, 2.0, after, teachers)
    assert gaps == {"distilled": 0.5, "ce_only": -0.25}
    assert gaps_recovered(changed, 1.0, after, teachers) == {}
    assert gaps_recovered(config({}, OWN), 2.0, after, teachers) == {}
    assert gap_recovered(2.0, 0.9, 1.0) == pytest.approx(1.1)


def test_no_gap():
    with pytest.raises(ValueError, match="there is no gap to recover"):
        gap_recovered(1.0, 0.9, 1.0)
