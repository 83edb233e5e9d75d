"""The card of an exported model: what its run wrote down, and no more."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.checkpoint import Inputs, Position, Tally
from orchestrator.licences import UNKNOWN, front_matter, model_source, text_source
from orchestrator.model_card import model_card
from orchestrator.outcome import Outcome, save_before, save_outcome
from teachers.document_score import DocumentScore

RUN: dict[str, Any] = {
    "student": {
        "init": "asset:smollm2-135m-instruct",
        "tokenizer": "bytes",
        "embeddings": {"init": "fvt"},
    },
    "teachers": [
        {
            "name": "gemma",
            "model": "asset:gemma-3-270m",
            "weight": 0.5,
            "methods": [{"name": "alm", "weight": 1.0, "temperature": 5.0, "k": None}],
        },
        {"name": "own", "kind": "self", "model": None, "methods": [{"name": "bld"}]},
    ],
    "mixture": {"combine": "losses", "ce_weight": 0.1, "weights": "gradmag", "normalize": "bytes"},
    "data": {"train": ["asset:prose/train.jsonl"], "held_out": ["my/texts.jsonl"]},
    "train": {"max_steps": 7, "global_batch": 4, "learning_rate": 1e-4, "seed": 0, "stages": []},
    "compare": {"ce_only": {"learning_rate": 5e-5}},
}


def nats(bits: float, num_bytes: int) -> DocumentScore:
    return DocumentScore(bits * math.log(2) * num_bytes, num_bytes, 3)


BEFORE = {"student": [nats(2.0, 30), nats(3.0, 10)], "gemma": [nats(1.0, 30), nats(1.5, 10)]}
TALLY = Tally(seconds=3.0, num_tokens=12345, num_bytes=54321)


def finished(folder: Path) -> Path:
    """An arm of a run, seven steps long; gives its final checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_before(folder, BEFORE)
    after = [nats(1.25, 30), nats(1.25, 10)]
    teachers = {"gemma": BEFORE["gemma"]}
    save_outcome(folder, Outcome(7, Inputs({}), BEFORE["student"], after, teachers, TALLY))
    (folder / "final").mkdir()
    (folder / "final" / "trainer_state.json").write_text('{"step": 7}')
    return folder / "final"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    finished(folder)
    (folder / "resolved.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False))
    return folder


def card_of(checkpoint: Path, tmp_path: Path) -> tuple[dict[str, Any], str]:
    text = model_card(checkpoint, "mine")
    (tmp_path / "README.md").write_text(text)
    return front_matter(tmp_path / "README.md"), text


def test_a_finished_run(run: Path, tmp_path: Path):
    header, text = card_of(run / "final", tmp_path)
    facts = header["tutelage"]
    assert header["license"] == "unknown"
    assert "base_model" not in header
    assert (facts["steps"], facts["tokens_seen"], facts["bytes_seen"]) == (7, 12345, 54321)
    bits = facts["bits_per_byte"]
    assert bits["before"] == pytest.approx(2.25)
    assert bits["after"] == pytest.approx(1.25)
    assert bits["teachers"] == {"gemma": pytest.approx(1.125)}
    assert bits["held_out_bytes"] == 40
    assert [(s["role"], s["licence"]) for s in facts["sources"]] == [
        ("student", "Apache-2.0"),
        (
            "teacher gemma",
            "Gemma Terms of Use (not open source): https://ai.google.dev/gemma/terms",
        ),
        ("training text", "CC BY-SA 4.0 (SQuAD), CC BY-SA 3.0 (BoolQ)"),
        ("held-out text", "unknown"),
    ]
    assert facts["sources"][3]["name"] == "texts.jsonl"
    for line in (
        "| student.tokenizer | bytes |",
        "| teacher gemma | asset:gemma-3-270m, weight 0.5, by alm (weight 1.0, temperature 5.0) |",
        "| teacher own | the student as it was at the start, weight 1.0, by bld |",
        "| mixture.weights | gradmag |",
        "| train.max_steps | 7 |",
        "| tokens seen | 12,345 |",
        "| before training | 2.2500 |",
        "| this model | 1.2500 |",
    ):
        assert line in text


def test_a_checkpoint_on_the_way(run: Path, tmp_path: Path):
    checkpoint = run / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text('{"step": 3}')
    Position(3, 0, Inputs({}), Tally(num_tokens=500)).save(checkpoint)
    facts = card_of(checkpoint, tmp_path)[0]["tutelage"]
    assert (facts["steps"], facts["tokens_seen"], facts["bytes_seen"]) == (3, 500, "unknown")
    assert facts["bits_per_byte"]["before"] == pytest.approx(2.25)
    assert facts["bits_per_byte"]["after"] == "unknown"


def test_the_arm_without_teachers(run: Path, tmp_path: Path):
    checkpoint = finished(run / "ce_only")
    header, text = card_of(checkpoint, tmp_path)
    assert "| teachers | none |" in text
    assert "| student.embeddings | {" in text
    assert "| train.learning_rate | 5e-05 |" in text
    assert all("teacher" not in source["role"] for source in header["tutelage"]["sources"])


def test_a_folder_that_no_run_wrote(tmp_path: Path):
    (tmp_path / "model").mkdir()
    header, text = card_of(tmp_path / "model", tmp_path)
    assert header["tutelage"]["steps"] == "unknown"
    assert header["tutelage"]["sources"] == []
    assert "| run file | unknown |" in text
    assert "that this model was made from are unknown" in text


def test_embeddings_say_nothing_without_another_tokenizer(run: Path, tmp_path: Path):
    student = RUN["student"] | {"tokenizer": None}
    (run / "resolved.yaml").write_text(yaml.safe_dump(RUN | {"student": student}))
    assert "student.embeddings" not in card_of(run / "final", tmp_path)[1]


def test_no_local_path_is_told(run: Path, tmp_path: Path):
    init = tmp_path / "private" / "student"
    init.mkdir(parents=True)
    (init / "README.md").write_text("---\nlicense: other\nlicense_name: our-own\n---\nHello")
    teacher = {"name": "t", "model": str(tmp_path / "private" / "t"), "methods": []}
    config = RUN | {"student": {"init": str(init)}, "teachers": [teacher]}
    (run / "resolved.yaml").write_text(yaml.safe_dump(config))
    header, text = card_of(run / "final", tmp_path)
    assert str(tmp_path) not in text
    sources = header["tutelage"]["sources"]
    assert sources[0] == {"role": "student", "name": "student", "licence": "other (our-own)"}
    assert sources[1] == {"role": "teacher t", "name": "t", "licence": "unknown"}


def test_a_hypernetwork_is_a_source(run: Path, tmp_path: Path):
    folder = tmp_path / "private" / "network"
    embeddings = {"init": "hypernetwork", "hypernetwork": str(folder)}
    config = RUN | {"student": RUN["student"] | {"embeddings": embeddings}}
    (run / "resolved.yaml").write_text(yaml.safe_dump(config))
    header, text = card_of(run / "final", tmp_path)
    assert str(tmp_path) not in text
    assert '"hypernetwork": "network"' in text
    assert {
        "role": "hypernetwork of the embeddings",
        "name": "network",
        "licence": "unknown",
    } in header["tutelage"]["sources"]


def test_a_teacher_that_follows_the_student(run: Path, tmp_path: Path):
    teacher = RUN["teachers"][1] | {"refresh": {"every": 10, "decay": 0.9}}
    (run / "resolved.yaml").write_text(yaml.safe_dump(RUN | {"teachers": [teacher]}))
    text = card_of(run / "final", tmp_path)[1]
    assert '| a running mean of the student ({"decay": 0.9, "every": 10}), weight 1.0' in text


def test_sources_of_a_source_are_told(run: Path, tmp_path: Path):
    """A student of one that was exported here."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "README.md").write_text(model_card(run / "final", "first"))
    config = RUN | {"student": {"init": str(tmp_path / "first")}, "teachers": []}
    (run / "resolved.yaml").write_text(yaml.safe_dump(config))
    licence = card_of(run / "final", tmp_path)[0]["tutelage"]["sources"][0]["licence"]
    assert licence.startswith("unknown (made from asset:smollm2-135m-instruct: Apache-2.0; asset:")
    assert "Gemma Terms of Use" in licence


class TestLicences:
    def test_of_a_hub_id_in_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        repo = tmp_path / "models--some--model"
        snapshot = repo / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("abc")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert model_source("student", "some/model").licence == "mit"
        assert model_source("student", "no/model").licence == UNKNOWN
        assert model_source("student", "not a valid/id!").licence == UNKNOWN

    def test_of_folders_and_files(self, tmp_path: Path):
        (tmp_path / "LICENSE.txt").write_text("…")
        (tmp_path / "a.jsonl").write_text("{}")
        assert text_source("t", str(tmp_path / "a.jsonl")).licence == (
            "unknown (its folder holds LICENSE.txt)"
        )
        (tmp_path / "README.md").write_text("---\nlicense: [a, b]\n---\n")
        assert text_source("t", str(tmp_path / "a.jsonl")).licence == "a, b"
        assert text_source("t", "asset:gsm8k/train.jsonl").licence == "MIT"
        assert model_source("t", "asset:none").licence == UNKNOWN

    @pytest.mark.parametrize("text", ["", "# Title\n", "---\n[\n---\n", "---\na: 1\n", "x\n---\n"])
    def test_no_front_matter(self, tmp_path: Path, text: str):
        (tmp_path / "README.md").write_text(text)
        assert front_matter(tmp_path / "README.md") == {}


def test_tables_survive_any_name(run: Path, tmp_path: Path):
    config = RUN | {"student": {"init": "a|b\nc"}}
    (run / "resolved.yaml").write_text(yaml.safe_dump(config))
    assert "| student.init | a\\|b c |" in card_of(run / "final", tmp_path)[1]
    assert json.dumps(card_of(run / "final", tmp_path)[0])
