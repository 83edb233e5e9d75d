"""What is read before any weight: everything that does not fit is said with its place."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import parse_run
from orchestrator.errors import ConfigError
from orchestrator.setup import describe, set_up
from orchestrator.validation import validate


@pytest.fixture
def run(fast_tokenizers: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A run with one teacher of each family; its folders hold tokenizers, no weights."""
    for name, fast in fast_tokenizers.items():
        fast.save_pretrained(tmp_path / name)
    rows = [{"text": "A text of some length, cut."}, {"text": "▁"}, {"text": "short"}]
    data = [str(tmp_path / f"{name}.jsonl") for name in ("train", "first", "second")]
    for path in data:
        Path(path).write_text("\n".join(json.dumps(row) for row in rows))
    return {
        "student": {"init": str(tmp_path / "bytelevel")},
        "teachers": [
            {"name": "same", "model": str(tmp_path / "bytelevel"), "methods": [{"name": "kl"}]},
            {
                "name": "other",
                "model": str(tmp_path / "sentencepiece"),
                "methods": [{"name": "alm"}],
            },
        ],
        "data": {
            "train": data[:1],
            "held_out": data[1:],
            "held_out_limit": 1,
            "max_length": 8,
        },
        "output_dir": str(tmp_path / "run"),
    }


def refusal(run: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        set_up(parse_run(run))
    return str(caught.value)


def test_what_a_good_run_reads(run):
    setup = set_up(parse_run(run))
    assert [t.name for t in setup.tokenizers] == ["student", "same", "other"]
    assert [d.name.rsplit(":")[-1] for d in setup.train.documents] == ["1", "3"]
    assert len(setup.held_out.documents) == 2  # the first of each file
    assert setup.train.quarantined == {"student": 0, "same": 0, "other": 1}
    assert describe(setup.train, ["student", "same", "other"]) == (
        f"2 documents, {setup.train.num_scored_bytes} scored bytes, 1 cut to length, "
        "left out by tokenizer: {'other': 1}"
    )


def test_validate_says_it_in_lines(run):
    lines = list(validate(parse_run(run)))
    assert lines[2] == "other: 768 ids, start token <bos>"
    assert any(line.startswith("held out: 2 documents") for line in lines)
    assert lines[-1] == "100 steps of 8 documents: 400.00 epochs"


def test_method_that_does_not_fit_its_pair(run):
    run["teachers"][1]["methods"] = [{"name": "alm"}, {"name": "kl"}]
    message = refusal(run)
    assert message.startswith("teachers[1] (other).methods[1] (kl): method kl needs one vocabulary")


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("student.init", lambda run, folder: run["student"].update(init=folder)),
        ("teachers.other.model", lambda run, folder: run["teachers"][1].update(model=folder)),
    ],
)
def test_folder_without_tokenizer(run, tmp_path, place, change):
    (tmp_path / "empty").mkdir()
    changed = copy.deepcopy(run)
    change(changed, str(tmp_path / "empty"))
    assert refusal(changed).startswith(f"{place}: cannot load the tokenizer of {tmp_path}")


def test_start_token_of_a_teacher(run):
    run["teachers"][1]["start_token"] = "<s>"
    assert refusal(run).startswith("teachers.other.model: ")
    run["teachers"][1]["start_token"] = "<eos>"
    assert set_up(parse_run(run)).tokenizers[2].start_id == 1


def test_missing_data(run):
    run["data"]["held_out"] = ["none.jsonl"]
    assert "none.jsonl does not exist" in refusal(run)
