"""How sure a lead is, and bits per byte of a model on files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.document import text_document
from orchestrator.errors import ConfigError
from orchestrator.evaluation import Lead, by_data_set, evaluate_model, lead
from orchestrator.sources import model_path
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte, score


def row(bits: float, num_bytes: int) -> DocumentScore:
    return DocumentScore(nats=bits * math.log(2), num_bytes=num_bytes, num_tokens=1)


class TestLead:
    def test_by_hand(self):
        ours, theirs = [row(10, 10), row(30, 20)], [row(13, 10), row(33, 20)]
        found = lead(ours, theirs)
        assert found.value == pytest.approx(6 / 30)
        # Two documents: both drawn twice, or one of each.
        assert (found.low, found.high) == (pytest.approx(3 / 20), pytest.approx(3 / 10))

    def test_sign_turns_with_the_models(self):
        ours = [row(b, 10) for b in (9, 11, 7, 8)]
        theirs = [row(b, 10) for b in (10, 13, 9, 7)]
        there, back = lead(ours, theirs), lead(theirs, ours)
        assert there.value == pytest.approx(-back.value)
        assert there.value > 0
        assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))

    def test_no_difference(self):
        rows = [row(b, 10) for b in (9, 11, 7, 8)]
        assert lead(rows, rows) == Lead(0.0, 0.0, 0.0)

    @given(st.lists(st.tuples(st.floats(1, 50), st.floats(1, 50)), min_size=3, max_size=12))
    def test_interval_holds_the_value(self, pairs):
        ours, theirs = [row(a, 10) for a, _ in pairs], [row(b, 10) for _, b in pairs]
        found = lead(ours, theirs)
        assert found.value == pytest.approx(bits_per_byte(theirs) - bits_per_byte(ours), abs=1e-9)
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9

    def test_interval_has_the_size_that_theory_says(self):
        """Equal lengths: 1.96 standard errors of the mean on each side."""
        rng = np.random.default_rng(0)
        ours = [row(50 + x, 50) for x in rng.normal(size=400)]
        theirs = [row(50, 50) for _ in ours]
        found = lead(ours, theirs)
        half = 1.96 * np.std([s.nats / math.log(2) / 50 for s in ours]) / math.sqrt(400)
        assert found.high - found.value == pytest.approx(half, rel=0.1)
        assert found.value - found.low == pytest.approx(half, rel=0.1)

    @pytest.mark.parametrize("theirs", [[row(1, 9), row(1, 20)], [row(1, 10)]])
    def test_different_bytes_are_refused(self, theirs):
        with pytest.raises(ValueError, match="scored different bytes"):
            lead([row(1, 10), row(1, 20)], theirs)


def test_by_data_set():
    names = ["asset:gsm8k/held_out.jsonl", "C:/prose.jsonl", "asset:gsm8k/held_out.jsonl"]
    documents = [text_document(f"{name}:{line}", "x") for line, name in enumerate(names)]
    scores = [row(10, 10), row(6, 3), row(5, 20)]
    assert by_data_set(documents, scores) == {
        names[0]: pytest.approx(0.5),
        names[1]: pytest.approx(2.0),
    }


class TestEvaluateModel:
    @pytest.fixture
    def folder(self, language_model, tmp_path: Path) -> Path:
        model = language_model("gemma2")
        model.model.save_pretrained(tmp_path / "model")
        model.tokenizer.fast.save_pretrained(tmp_path / "model")
        rows = [{"text": "A text."}, {"prompt": "2+2=", "completion": "4"}, {"text": "w " * 80}]
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / "data.jsonl").write_text(lines)
        return tmp_path

    def test_on_a_file(self, folder, language_model):
        found = evaluate_model(
            str(folder / "model"), [str(folder / "data.jsonl")], max_length=20, token_budget=30
        )
        assert found.num_documents == 3
        expected = score(language_model("gemma2"), [text_document("d", "A text.")], 100)
        assert found.num_bytes < 7 + 1 + 160  # the long one was cut
        assert found.bits_per_byte == found.by_data_set[str(folder / "data.jsonl")]
        data = folder / "one.jsonl"
        data.write_text('{"text": "A text."}')
        one = evaluate_model(str(folder / "model"), [str(data)])
        assert one.bits_per_byte == pytest.approx(bits_per_byte(expected), rel=1e-5)

    def test_no_such_folder(self, folder):
        with pytest.raises(ConfigError, match=r"model folder \./none does not exist"):
            evaluate_model("./none", [str(folder / "data.jsonl")])

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_no_such_device(self, folder):
        with pytest.raises(ConfigError, match="finds no CUDA device"):
            evaluate_model(str(folder / "model"), [str(folder / "data.jsonl")], device="cuda")


def test_model_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "a").mkdir(parents=True)
    assert model_path("models/a") == str(tmp_path / "models" / "a")
    assert model_path("org/name") == "org/name"  # a hub id
    for wrong in ("models/a/b", "/no/such", "~/no-such-model"):
        with pytest.raises(ConfigError, match="does not exist"):
            model_path(wrong)
