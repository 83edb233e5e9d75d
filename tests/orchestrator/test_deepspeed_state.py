"""Under DeepSpeed a resumed student goes on bit for bit, and on other ranks and stages to 1e-5."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.student.adamw import KINDS
from orchestrator.student.trainer import Objective
from orchestrator.student.worker import StudentSpec, TermSpec
from teachers.source import ModelSource
from teachers.teacher import Teacher

pytestmark = pytest.mark.slow

BATCHES = [(0, 1, 4, 5), (2, 3, 5, 0), (1, 2, 3, 4), (5, 4, 0, 1)]
SAVED = 2
"""Steps done when the state is saved, of four."""


@dataclass(frozen=True)
class Case:
    """``start`` is the case whose state this one continues; None trains all four steps.

    ``undisturbed`` is the same case without the turns that this one takes on its device.
    """

    stage: int = 0
    num_ranks: int = 1
    dtype: str = "float32"
    dropout: bool = True
    start: str | None = None
    undisturbed: str | None = None


WHOLE = {
    **{f"zero{stage}": Case(stage) for stage in range(4)},
    **{f"zero{stage}-ranks": Case(stage, 2) for stage in range(4)},
    **{f"bf16-zero{stage}": Case(stage, dtype="bfloat16") for stage in (1, 2, 3)},
    "bf16-zero3-ranks": Case(3, 2, "bfloat16"),
}
RESUMED = {f"{name} resumed": replace(case, start=name) for name, case in WHOLE.items()}
STARTS = {f"{stage} on {ranks}": Case(stage, ranks) for stage in (0, 3) for ranks in (1, 2)}
MOVED = {
    f"{name} to {stage} on {ranks}": Case(stage, ranks, start=name)
    for name in STARTS
    for stage, ranks in ((0, 1), (0, 2), (1, 1), (2, 2), (3, 2))
    if name != f"{stage} on {ranks}"
}
"""Another number of ranks or ZeRO stage; dropout differs by rank, so it is off."""
PLAIN = {name: replace(case, dropout=False) for name, case in (STARTS | MOVED).items()}
OFFLOADED = {
    f"{name} offloaded": replace(WHOLE[name], undisturbed=name)
    for name in ("zero1", "zero2", "bf16-zero1")
}
CASES = {**WHOLE, **RESUMED, **PLAIN, **OFFLOADED}
QUICK = {
    "bf16-zero1 offloaded",
    *("zero0 resumed", "zero2-ranks resumed", "bf16-zero3-ranks resumed", "0 on 1 to 2 on 2"),
    *("zero0", "zero2-ranks", "bf16-zero3-ranks"),
}
"""The others take three minutes more and are nightly."""


def parameters(names: Iterable[str]) -> list[Any]:
    nightly = pytest.mark.nightly
    return [pytest.param(name, marks=() if name in QUICK else nightly) for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("deepspeed-state")


@pytest.fixture(scope="module")
def results(distillation, zero, train_ranks, collected, folder) -> dict[str, Any]:
    """Every asked case's result, or the text of its error; the student has dropout."""
    odd = {"architecture": "gpt2", "n_inner": 63}  # cannot be cut in two without padding
    for dropout in (False, True):
        lab = distillation(student=odd | {"resid_pdrop": 0.1 * dropout})
        student = lab.build_student()
        student.model.save_pretrained(folder / f"dropout-{dropout}")
        student.tokenizer.fast.save_pretrained(folder / f"dropout-{dropout}")
    asked = collected(Path(__file__).name, "name")
    starts = {other for name in asked for other in (CASES[name].start, CASES[name].undisturbed)}
    names = [name for name in CASES if name in starts or name in asked]
    jobs = {name: job(lab, name, zero[CASES[name].stage], folder) for name in names}
    found: dict[str, Any] = train_ranks(jobs, folder)
    return found


def job(lab, name: str, extra: dict[str, Any], folder: Path) -> dict[str, Any]:
    case = CASES[name]
    first = SAVED if case.start else 0
    terms = [
        TermSpec(t.teacher, t.method_name, t.method, t.weight, t.pair.teacher) for t in lab.terms()
    ]
    plain = lab.trainer(
        learning_rate=1e-3,
        lr_schedule="cosine",
        warmup_steps=1,
        max_steps=4,
        weight_decay=0.1,
        max_grad_norm=0.05,
    ).engine.options
    options = replace(
        plain,
        micro_batch=2,
        accumulation=2 // case.num_ranks,
        dtype=case.dtype,
        extra=extra,
    )
    spec = StudentSpec(
        source=ModelSource(str(folder / f"dropout-{case.dropout}"), dtype=case.dtype),
        keep=None,
        drop=None,
        device="cpu",
        threads=1,
        num_ranks=case.num_ranks,
        gradient_checkpointing=False,
        seed=0 if first == 0 else 99,  # what is random must come from the state
        objective=Objective((0.5, 1.0, 2.0), "bytes"),
        engine=options,
        terms=tuple(terms),
        resume_from=folder / f"{case.start}.state" if case.start else None,
    )
    heads = {name: Teacher(model, []).head_weights() for name, model in lab.teachers.items()}
    saves = {SAVED: folder / f"{name}.state"}
    if case.undisturbed:  # what is saved once must be found again after a move
        saves |= {SAVED - 1: folder / f"{name}.before"}
    return {
        "spec": spec,
        "heads": heads,
        "steps": [batch_of(lab, indices) for indices in BATCHES[first:]],
        "first": first,
        "saves": saves,
        "offloads": range(1, 4) if case.undisturbed else (),
        "measure_shares": False,
        "elements_in_memory": plain.micro_batch * 2**20,
    }


def batch_of(lab, indices: tuple[int, ...]) -> tuple[list, list, int]:
    documents = [lab.documents[i] for i in indices]
    num_bytes = sum(document.num_scored_bytes for document in documents)
    return documents, [lab.signals[i] for i in indices], num_bytes


def result_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    found = results[name]
    if isinstance(found, str):
        pytest.fail(found, pytrace=False)
    return found


@pytest.mark.parametrize("name", parameters(RESUMED))
class TestSameRanks:
    def test_steps_are_the_same_bit_for_bit(self, results, name):
        ours = result_of(results, name)["reports"]
        theirs = result_of(results, CASES[name].start)["reports"][SAVED:]
        for found, expected in zip(ours, theirs, strict=True):
            assert found.losses == expected.losses
            assert found.loss == expected.loss
            assert found.update == expected.update

    def test_weights_are_the_same_bit_for_bit(self, results, name):
        ours = result_of(results, name)["weights"]
        theirs = result_of(results, CASES[name].start)["weights"]
        assert ours.keys() == theirs.keys()
        for parameter, value in ours.items():
            assert torch.equal(value, theirs[parameter]), parameter

    def test_state_is_written_again_as_it_was(self, results, folder, name):
        result_of(results, name)
        before, again = folder / f"{CASES[name].start}.state", folder / f"{name}.state"
        files = sorted(path.name for path in before.iterdir())
        assert files == sorted(path.name for path in again.iterdir())
        for file in files:
            assert (before / file).read_bytes() == (again / file).read_bytes(), file


@pytest.mark.parametrize("name", parameters(OFFLOADED))
def test_leaving_the_device_and_coming_back_changes_nothing(results, folder, name):
    """``resources.offload``: the same steps, weights and state, bit for bit."""
    other = CASES[name].undisturbed
    ours, theirs = result_of(results, name), result_of(results, other)
    for found, expected in zip(ours["reports"], theirs["reports"], strict=True):
        assert (found.loss, found.update) == (expected.loss, expected.update)
    for parameter, value in ours["weights"].items():
        assert torch.equal(value, theirs["weights"][parameter]), parameter
    for path in (folder / f"{name}.state").iterdir():
        assert path.read_bytes() == (folder / f"{other}.state" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", parameters(WHOLE))
def test_state_is_full_precision_and_complete(results, folder, name):
    result_of(results, name)
    state = folder / f"{name}.state"
    counts = json.loads((state / "optimizer.json").read_text())
    assert counts["step"] == SAVED
    assert set(counts["num_updates"].values()) == {SAVED}
    assert len(list(state.glob("random-*"))) == CASES[name].num_ranks
    shapes = {}
    for kind in KINDS:
        found = load_file(state / f"{kind}.safetensors")
        assert {value.dtype for value in found.values()} == {torch.float32}
        assert found.keys() == counts["num_updates"].keys()
        assert any(bool(value.any()) for value in found.values())
        shapes[kind] = {parameter: value.shape for parameter, value in found.items()}
    assert shapes["weights"] == shapes["exp_avg"] == shapes["exp_avg_sq"]


@pytest.mark.parametrize("name", parameters(MOVED))
def test_on_other_ranks_and_stages(results, name):
    """Up to the order of sums."""
    ours, theirs = result_of(results, name), result_of(results, CASES[name].start)
    pairs = zip(ours["reports"], theirs["reports"][SAVED:], strict=True)
    for found, expected in pairs:
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    for parameter, value in ours["weights"].items():
        assert (value - theirs["weights"][parameter]).abs().max() < 1e-5
