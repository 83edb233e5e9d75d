"""Bits per byte of an ensemble, beside its members'."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from losses.document import chat_document, text_document
from losses.signals import ByteDistributions
from orchestrator.ensemble import Mixing, evaluate_ensemble, mixed
from orchestrator.errors import ConfigError
from orchestrator.evaluation import evaluate_model
from orchestrator.members import members_of

HELLO = text_document("d", "ab")


def signal(rows: dict[int, dict[int, float]]) -> ByteDistributions:
    """Probabilities of a few outcomes at each position."""
    table = np.full((len(rows), 257), 1e-8)
    for row, chances in enumerate(rows.values()):
        for outcome, chance in chances.items():
            table[row, outcome] = chance
    positions = np.array(list(rows), dtype=np.int32)
    return ByteDistributions(positions, np.log(table).astype(np.float16))


def weights(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


A, B, C = b"abc"
FIRST = signal({0: {A: 0.5, C: 0.5}, 1: {B: 0.2, C: 0.8}})
SECOND = signal({0: {A: 0.9, C: 0.1}, 1: {B: 0.6, C: 0.4}})


class TestMixed:
    def test_arithmetic_by_hand(self):
        found = mixed(HELLO, [FIRST, SECOND], weights(1, 3), "arithmetic")
        expected = [0.25 * 0.5 + 0.75 * 0.9, 0.25 * 0.2 + 0.75 * 0.6]
        np.testing.assert_allclose(np.exp(-found.ensemble), expected, rtol=1e-3)
        np.testing.assert_allclose(np.exp(-found.members), [[0.5, 0.2], [0.9, 0.6]], rtol=1e-3)

    def test_geometric_by_hand(self):
        found = mixed(HELLO, [FIRST, SECOND], weights(1, 1), "geometric")
        first = [math.sqrt(0.5 * 0.9), math.sqrt(0.5 * 0.1)]
        second = [math.sqrt(0.2 * 0.6), math.sqrt(0.8 * 0.4)]
        expected = [first[0] / sum(first), second[0] / sum(second)]
        np.testing.assert_allclose(np.exp(-found.ensemble), expected, rtol=1e-3)

    @pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
    def test_one_member_or_equal_ones_change_nothing(self, mean: str):
        alone = mixed(HELLO, [FIRST], weights(2), mean)
        np.testing.assert_allclose(alone.ensemble, alone.members[0], rtol=1e-12)
        twice = mixed(HELLO, [FIRST, FIRST], weights(1, 3), mean)
        np.testing.assert_allclose(twice.ensemble, alone.ensemble, rtol=1e-12)

    @pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
    def test_an_absent_member_leaves_its_weight(self, mean: str):
        late = ByteDistributions(SECOND.positions[1:], SECOND.logprobs[1:])
        found = mixed(HELLO, [FIRST, late], weights(1, 9), mean)
        whole = mixed(HELLO, [FIRST, SECOND], weights(1, 9), mean)
        assert found.ensemble[0] == pytest.approx(found.members[0, 0], rel=1e-12)
        assert found.ensemble[1] == whole.ensemble[1]
        assert math.isnan(found.members[1, 0])
        assert found.common.tolist() == [False, True]

    def test_a_byte_that_nobody_predicts_is_left_out(self):
        rows = [ByteDistributions(s.positions[1:], s.logprobs[1:]) for s in (FIRST, SECOND)]
        assert mixed(HELLO, rows, weights(1, 1), "arithmetic").ensemble.shape == (1,)

    def test_end_of_turn(self):
        chat = chat_document("c", [("user", "q"), ("assistant", "a")])
        own = signal({1: {A: 0.5}, 2: {256: 0.25, 255: 0.5}})
        found = mixed(chat, [own], weights(1), "arithmetic")
        assert math.exp(-found.ensemble[1]) == pytest.approx(0.25 / 0.75, rel=1e-2)


TEXTS = ["A text of some words.", "Another one, naïve.", "The quick brown fox", "x = 42"]


@pytest.fixture(scope="module")
def folder(language_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with unlike tokenizers, and documents."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("bytelevel", "sentencepiece"):
        model = language_model(tokenizer=name, initializer_range=0.1)
        model.model.save_pretrained(folder / name)
        model.tokenizer.fast.save_pretrained(folder / name)
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder


class TestEvaluateEnsemble:
    def evaluate(self, folder: Path, names: list[str], mixing: Mixing, *given: float):
        members = members_of([str(folder / name) for name in names], given, "float32")
        return evaluate_ensemble(members, [str(folder / "data.jsonl")], mixing)

    def test_two_tokenizers(self, folder: Path):
        names = ["bytelevel", "sentencepiece"]
        found = self.evaluate(folder, names, Mixing("arithmetic", "on_path"))
        ours, theirs = found.members.values()
        assert list(found.members) == [str(folder / name) for name in names]
        assert found.bits_per_byte < (ours + theirs) / 2  # Jensen
        assert found.num_documents == 4
        assert found.num_bytes == sum(len(text.encode()) for text in TEXTS)
        assert found.lead.value == pytest.approx(min(ours, theirs) - found.bits_per_byte)
        assert found.by_data_set == {str(folder / "data.jsonl"): found.bits_per_byte}
        geometric = self.evaluate(folder, names, Mixing("geometric", "on_path"))
        assert geometric.members == found.members
        assert geometric.bits_per_byte != found.bits_per_byte
        one_path = self.evaluate(folder, names, Mixing("arithmetic", "one_path"))
        assert one_path.bits_per_byte != found.bits_per_byte

    def test_of_one_and_of_the_same_twice(self, folder: Path):
        one = self.evaluate(folder, ["bytelevel"], Mixing("arithmetic", "on_path"))
        [own] = one.members.values()
        assert one.bits_per_byte == pytest.approx(own, rel=1e-12)
        assert one.bits_per_byte_of_some == pytest.approx(own, rel=1e-12)
        assert one.lead.value == pytest.approx(0.0, abs=1e-12)
        twice = self.evaluate(folder, ["bytelevel"] * 2, Mixing("geometric", "on_path"))
        assert twice.bits_per_byte == pytest.approx(own, rel=1e-12)
        assert list(twice.members) == [
            str(folder / "bytelevel"),
            str(folder / "bytelevel") + " (2)",
        ]

    def test_a_member_is_near_its_bits_by_tokens(self, folder: Path):
        """Bytes count all tokens that begin so, the canonical ones alone are less likely."""
        one = self.evaluate(folder, ["bytelevel"], Mixing("arithmetic", "branches"))
        tokens = evaluate_model(str(folder / "bytelevel"), [str(folder / "data.jsonl")])
        assert one.bits_per_byte < tokens.bits_per_byte + 1e-3
        assert one.bits_per_byte > 0.5 * tokens.bits_per_byte

    def test_weights(self, folder: Path):
        names, mixing = ["bytelevel", "sentencepiece"], Mixing("arithmetic", "on_path")
        heavy = self.evaluate(folder, names, mixing, 1e6, 1.0)
        first = next(iter(heavy.members.values()))
        assert heavy.bits_per_byte == pytest.approx(first, rel=1e-4)

    def test_no_members(self, folder: Path):
        with pytest.raises(ConfigError, match="one member at least"):
            evaluate_ensemble([], [str(folder / "data.jsonl")], Mixing("arithmetic"))


class TestMembersOf:
    @pytest.fixture
    def run_file(self, folder: Path) -> Path:
        text = f"""
student: {{init: {folder / "bytelevel"}}}
teachers:
  - {{name: a, model: {folder / "bytelevel"}, weight: 2.0, methods: [{{name: kl}}]}}
  - {{name: b, model: {folder / "sentencepiece"}, dtype: bfloat16, methods: [{{name: alm}}]}}
data: {{train: [x.jsonl], held_out: [y.jsonl]}}
output_dir: out
"""
        (folder / "run.yaml").write_text(text)
        return folder / "run.yaml"

    def test_teachers_of_a_run_file(self, folder: Path, run_file: Path):
        found = members_of([str(run_file), str(folder / "bytelevel")], [], "float32")
        assert [(m.name, m.weight, m.source.dtype) for m in found] == [
            ("a", 2.0, "float32"),
            ("b", 1.0, "bfloat16"),
            (str(folder / "bytelevel"), 1.0, "float32"),
        ]
        given = members_of([str(run_file)], [0.5, 0.25], "float32")
        assert [m.weight for m in given] == [0.5, 0.25]

    def test_scheduled_weights_are_refused(self, run_file: Path):
        text = run_file.read_text().replace("weight: 2.0", "weight: {start: 1, end: 0, steps: 9}")
        run_file.with_name("scheduled.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"teachers\.a\.weight changes over the steps"):
            members_of([str(run_file.with_name("scheduled.yaml"))], [], "float32")

    @pytest.mark.parametrize(("combine", "expected"), [("targets", 6.0), ("losses", 2.0)])
    def test_weights_of_combined_targets_are_those_of_training(
        self, run_file: Path, combine: str, expected: float
    ):
        text = run_file.read_text().replace("{name: kl}", "{name: alm, weight: 3.0}")
        own = run_file.with_name(f"{combine}.yaml")
        own.write_text(f"{text}mixture: {{combine: {combine}}}\n")
        found = members_of([str(own)], [], "float32")
        assert [member.weight for member in found] == [expected, 1.0]

    @pytest.mark.parametrize("given", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan]])
    def test_wrong_weights(self, folder: Path, given: list[float]):
        names = [str(folder / name) for name in ("bytelevel", "sentencepiece")]
        with pytest.raises(ConfigError, match="expected 2 numbers above 0"):
            members_of(names, given, "float32")
