"""W in the cache folder, in a run's set-up, and ``tutelage prepare``."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as FastTokenizer
from transformers import LlamaConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

from losses.alignment.coverage import TokenClass
from losses.alignment.projection import METADATA, ProjectionOptions
from losses.alignment.vocabulary import Vocabulary
from losses.document import text_document
from losses.methods.p_kl import PKl
from orchestrator import prepare as prepare_module
from orchestrator import projections
from orchestrator.cli import app
from orchestrator.cluster import Machine
from orchestrator.config import parse_run
from orchestrator.config.yaml_text import dump_yaml
from orchestrator.errors import ConfigError
from orchestrator.gates.student import check
from orchestrator.gates.verdict import Gates
from orchestrator.prepare import count_tokens, first_documents, prepare
from orchestrator.projections import projection_folder, projection_key, projection_of
from orchestrator.setup import set_up
from orchestrator.specs import student_spec
from orchestrator.student import build
from orchestrator.student.module import DistillModule, Example
from orchestrator.student.spec import TermSpec
from teachers.tokenizer import Tokenizer

OPTIONS = ProjectionOptions()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(fast_tokenizers: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A byte-level student, a teacher whose method needs no W and one whose method does."""
    for name, fast in fast_tokenizers.items():
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        ids = {"bos_token_id": None, "eos_token_id": None, "vocab_size": len(fast)}
        LlamaConfig(**sizes, **ids).save_pretrained(tmp_path / name)
        fast.save_pretrained(tmp_path / name)
    data = [tmp_path / "train.jsonl", tmp_path / "held_out.jsonl"]
    for path, text in zip(data, ["An object has 12 parts, or 3.", "Another."], strict=True):
        path.write_text(json.dumps({"text": text}) + "\n")
    byte_level, other = (str(tmp_path / name) for name in ("bytelevel", "sentencepiece"))
    return {
        "student": {"init": byte_level},
        "teachers": [
            {"name": "same", "model": byte_level, "methods": [{"name": "kl"}]},
            {"name": "other", "model": other, "methods": [{"name": "alm"}, {"name": "p_kl"}]},
        ],
        "data": {"train": [str(data[0])], "held_out": [str(data[1])], "max_length": 64},
        "output_dir": str(tmp_path / "run"),
    }


def fail(*_: object) -> None:
    raise AssertionError("built again")


def test_built_once_then_read(tokenizers, monkeypatch):
    student, teacher = tokenizers["bytelevel"], tokenizers["sentencepiece"]
    built = projection_of(student, teacher, OPTIONS)
    monkeypatch.setattr(projections, "build_projection", fail)
    read = projection_of(student, teacher, OPTIONS)
    np.testing.assert_array_equal(built.weights, read.weights)
    np.testing.assert_array_equal(built.teacher_ids, read.teacher_ids)
    assert 0 < read.exact.sum() < read.num_student == len(student.vocabulary)


def test_the_quicker_of_two_processes_wins(tokenizers, monkeypatch):
    student, teacher = tokenizers["bytelevel"], tokenizers["sentencepiece"]
    folder = projection_folder(projection_key(student, teacher, OPTIONS))
    save = projections.Projection.save

    def slowly(self, partial_folder, key):
        save(self, partial_folder, key)
        folder.mkdir(parents=True)
        save(self, folder, key)

    monkeypatch.setattr(projections.Projection, "save", slowly)
    assert projection_of(student, teacher, OPTIONS).num_teacher == len(teacher.vocabulary)
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]


def test_what_another_w_needs_another_folder(tokenizers):
    a, b = tokenizers["bytelevel"], tokenizers["sentencepiece"]
    keys = [
        projection_key(a, b, OPTIONS),
        projection_key(b, a, OPTIONS),
        projection_key(a, b, ProjectionOptions(top_k=2)),
        projection_key(a, b, ProjectionOptions(reverse=True)),
    ]
    assert len({projection_folder(key) for key in keys}) == len(keys)


def test_other_merges_need_another_w(tokenizers):
    state = json.loads(tokenizers["bytelevel"].backend.to_str())
    found = []
    for _ in range(2):
        backend = FastTokenizer.from_str(json.dumps(state))
        found.append(Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "t"))
        state["model"]["merges"].reverse()
    (teacher, other), student = found, tokenizers["sentencepiece"]
    assert other.vocabulary.fingerprint == teacher.vocabulary.fingerprint
    assert projection_key(student, other, OPTIONS) != projection_key(student, teacher, OPTIONS)
    assert projection_key(other, student, OPTIONS) != projection_key(teacher, student, OPTIONS)


def test_a_folder_of_another_pair_is_refused(tokenizers):
    student, teacher = tokenizers["bytelevel"], tokenizers["sentencepiece"]
    projection_of(student, teacher, OPTIONS)
    path = projection_folder(projection_key(student, teacher, OPTIONS)) / METADATA
    path.write_text(path.read_text().replace(teacher.vocabulary.fingerprint, "0" * 64))
    with pytest.raises(ValueError, match="belongs to another pair, remove the folder"):
        projection_of(student, teacher, OPTIONS)


def test_set_up_gives_w_to_the_methods_that_read_it(run):
    config = parse_run(run)
    setup = set_up(config)
    assert list(setup.projections) == ["other"]
    vocabularies: dict[str, Vocabulary] = {t.name: t.vocabulary for t in setup.tokenizers}
    spec = student_spec(config, Machine(2, 0.0), vocabularies, setup.projections)
    found = {f"{t.teacher}/{t.method_name}": t.projection for t in spec.terms}
    assert found == {
        "same/kl": None,
        "other/alm": None,
        "other/p_kl": setup.projections["other"],
    }


def test_options_come_from_the_run_file(run):
    run["teachers"][1]["projection"] = {"top_k": 1, "reverse": True}
    w = set_up(parse_run(run)).projections["other"]
    assert np.diff(w.offsets).max() == 1


def test_options_without_a_method_that_reads_w_are_refused(run):
    run["teachers"][0]["projection"] = {"top_k": 2}
    with pytest.raises(ConfigError, match="projection has no effect"):
        parse_run(run)


def test_prepare_measures_every_teacher(run, cache):
    same, other = prepare(parse_run(run))
    assert (same.teacher, other.teacher) == ("same", "other")
    assert same.coverage.total.exact >= same.coverage.total.student - 3  # specials without a role
    assert same.coverage.total.split == 0
    assert other.folder.parent == cache / "projections"
    total = other.coverage.total
    assert 0 < total.seen_exact <= total.seen
    assert 0 < total.teacher_seen_exact <= total.teacher_seen
    assert other.coverage.classes[TokenClass.ONE_DIGIT].seen > 0


@pytest.fixture
def combined(run):
    """Targets combined in the student's vocabulary."""
    for teacher in run["teachers"]:
        teacher["methods"] = [{"name": "kl"}]
    return run | {"mixture": {"combine": "targets"}}


def test_prepare_builds_what_combined_targets_read(combined, cache, tokenizers, monkeypatch):
    config = parse_run(combined)
    _, other = prepare(config)
    assert other.is_reverse
    student, teacher = tokenizers["bytelevel"], tokenizers["sentencepiece"]
    assert other.folder == projection_folder(projection_key(teacher, student, OPTIONS))
    assert not projection_folder(projection_key(student, teacher, OPTIONS)).exists()
    assert other.coverage.total.student == len(teacher.vocabulary)
    monkeypatch.setattr(projections, "build_projection", fail)
    assert set(set_up(config).projections) == {"other"}  # all that a run reads is there


def test_command_with_combined_targets(combined, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(combined))
    result = CliRunner().invoke(app, ["prepare", str(path)])
    assert result.exit_code == 0, result.output
    assert "W⁻ of other" in result.output
    assert "Advice" not in result.output


def test_another_end_of_turn_needs_another_w(fast_tokenizers, tokenizers):
    found, student = [], tokenizers["bytelevel"]
    for choice in (None, "plain"):
        fast = deepcopy(fast_tokenizers["sentencepiece"])
        fast.add_special_tokens({"additional_special_tokens": ["<turn>"]})
        fast.chat_template = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}"
        found.append(Tokenizer(fast, "t", template=choice))
    own, plain = (projection_key(student, teacher, OPTIONS) for teacher in found)
    assert projection_folder(own) != projection_folder(plain)
    w = projection_of(student, found[0], OPTIONS)
    end = student.fast.eos_token_id
    assert list(w.row(end)) == [found[0].fast.eos_token_id]  # this student has no chats
    back = projection_of(found[0], student, OPTIONS)
    assert back.row(found[0].fast.convert_tokens_to_ids("<turn>")) == {end: 1.0}


def test_prepare_without_the_training_text(run, tmp_path):
    run["data"]["train"] = ["asset:gsm8k/train.jsonl"]  # not in this cache
    for pair in prepare(parse_run(run)):
        assert pair.coverage.total.seen == pair.coverage.total.teacher_seen == 0


def test_prepare_needs_the_models(run):
    run["teachers"][1]["model"] = "asset:gemma-3-270m"
    with pytest.raises(ConfigError, match="not fetched yet; run: tutelage assets gemma-3-270m"):
        list(prepare(parse_run(run)))


def test_only_the_first_documents_are_counted(monkeypatch):
    monkeypatch.setattr(prepare_module, "MOST_BYTES", 10)
    documents = [text_document(str(i), "four") for i in range(5)]
    assert len(first_documents(documents)) == 3
    assert first_documents([]) == []


def test_tokens_are_counted_where_bytes_are_scored(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    documents = [text_document("a", "7, 7"), text_document("b", "▁")]  # the second is unreadable
    counts = count_tokens(tokenizer, documents)
    [seven] = tokenizer.ids_of(["7"])[0]
    assert counts.sum() == len(tokenizer.ids_of(["7, 7"])[0])
    assert counts[seven] >= 1


def test_command(run, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(run))
    invoke: Callable[..., Any] = CliRunner().invoke
    result = invoke(app, ["prepare", str(path)])
    assert result.exit_code == 0, result.output
    assert result.output.count("Advice: ") == 2
    for text in ("W of other", "numerals of 1 digit", "A partition loss compares by rank alone"):
        assert text in result.output


@pytest.mark.parametrize("learnable", [False, True])
def test_gates_give_the_student_its_own_w(distillation, tokenizers, learnable):
    w = projection_of(tokenizers["bytelevel"], tokenizers["sentencepiece"], OPTIONS)
    lab = distillation({"other": PKl(k=8, learnable_w=learnable)})
    [term] = lab.terms()
    student = lab.build_student()
    module = DistillModule(student, [replace(term, pair=replace(term.pair, projection=w))])
    tokens = student.encode(lab.documents)
    rows = zip(lab.documents, tokens, lab.signals, strict=True)
    verdicts = check(module, [Example(*row) for row in rows], 2, Gates(likelihood=False))
    assert "identity" in {verdict.gate for verdict in verdicts}
    assert [verdict for verdict in verdicts if not verdict.passed] == []


def test_a_term_has_w_in_its_pair(tokenizers, language_model):
    student, teacher = language_model("llama"), tokenizers["sentencepiece"].vocabulary
    w = projection_of(tokenizers["bytelevel"], tokenizers["sentencepiece"], OPTIONS)
    term = build._term(TermSpec("other", "p_kl", PKl(), 1.0, teacher, w), student)
    assert term.pair.projection is w
