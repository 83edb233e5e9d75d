"""The numbers that the command prints, where there are none."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.exposure_bias import evaluation
from orchestrator.exposure_bias.curve import exposure_bias
from orchestrator.exposure_bias.evaluation import Pairing, Prompts, evaluate_exposure_bias
from orchestrator.printing import print_fields
from teachers.sampling import Sampling


def measured(monkeypatch, tmp_path, student, teacher):
    """The result for errors that are given, and what JSON says of it."""
    curve = exposure_bias(np.asarray(student), np.asarray(teacher))
    monkeypatch.setattr(evaluation, "load_documents", lambda paths: [])
    monkeypatch.setattr(evaluation, "load_model", lambda *_: SimpleNamespace(tokenizer=None))
    monkeypatch.setattr(evaluation, "Models", lambda *_: None)
    monkeypatch.setattr(evaluation, "choose_prompts", lambda *_: ["a", "b", "c"])
    monkeypatch.setattr(evaluation, "measure", lambda *_: curve)
    output = tmp_path / "curve.json"
    found = evaluate_exposure_bias(
        Pairing("s", "t"), Prompts(("d.jsonl",)), Sampling(1, 1.0, 0), output
    )
    return found, json.loads(output.read_text())


def not_json(constant):
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.parametrize(
    ("student", "teacher", "absent", "note"),
    [
        ([[1.0], [2.0], [1.0]], [[1.0], [1.0], [2.0]], set(), None),
        ([[1.0], [2.0], [1.0]], [[0.0], [0.0], [0.0]], {"ex_acc_err", "low", "high"}, "l ε(l) is"),
        ([[1.0], [2.0], [1.0]], [[0.0], [1.0], [0.0]], {"high"}, "some of the resamples"),
    ],
)
def test_what_is_not_finite_is_null_and_says_why(
    monkeypatch, tmp_path, capsys, student, teacher, absent, note
):
    found, written = measured(monkeypatch, tmp_path, student, teacher)
    print_fields(dict(vars(found)), as_json=True)
    shown = json.loads(capsys.readouterr().out, parse_constant=not_json)
    numbers = ("ex_acc_err", "low", "high")
    assert {name for name in numbers if shown[name] is None} == absent
    if note is None:
        assert (shown["note"], "note" in written) == (None, False)
    else:
        assert note in shown["note"] == written["note"]
