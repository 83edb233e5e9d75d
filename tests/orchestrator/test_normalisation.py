"""One objective, one gradient: ranks, accumulation and ZeRO stage do not show in it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gradient_setting import (
    WEIGHTS,
    Batch,
    LearnedMap,
    Setting,
    build_setting,
    plain_module,
    reference,
)
from benchmarks.normalisation import GRID, NORMALIZE, QUICK, Case, largest_difference
from orchestrator.config import load_run
from orchestrator.errors import ConfigError
from orchestrator.student.module import DistillModule, Example
from orchestrator.student.trainer import Objective, StepReport, StudentTrainer

ROOT = Path(__file__).parents[2]
BATCHES = ("unequal", "starved")


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    return build_setting(tmp_path_factory.mktemp("student"))


@pytest.fixture
def step(setting, distillation):
    """One step of the plain engine; gives the gradients and the report."""
    plain = distillation().trainer().engine

    def run(batch: Batch, normalize: str, micro_batch: int) -> tuple[dict, StepReport]:
        engine = type(plain)(plain_module(setting), plain.options)
        trainer = StudentTrainer(engine, Objective(WEIGHTS, normalize), micro_batch, 512)
        report = trainer.step(batch.documents, batch.signals, batch.num_scored_bytes)
        return engine.gradients, report

    return run


def examples_of(module: DistillModule, batch: Batch) -> list[Example]:
    tokens = module.student.encode(batch.documents)
    return [Example(*row) for row in zip(batch.documents, tokens, batch.signals, strict=True)]


def only(batch: Batch, kept: slice) -> Batch:
    return Batch(batch.documents[kept], batch.signals[kept])


@pytest.fixture
def dead(setting) -> Batch:
    """Documents with scored bytes but no token of which all bytes are scored."""
    return only(setting.batches["starved"], slice(1, None, 2))


class TestSetting:
    """The grid says nothing if its documents are harmless."""

    def test_one_rank_gets_little(self, setting):
        scored = [d.num_scored_bytes for d in setting.batches["unequal"].documents]
        assert min(scored[0::2]) > 5 * max(scored[1::2])

    def test_one_rank_gets_nothing(self, setting, dead):
        module = plain_module(setting)
        assert dead.num_scored_bytes > 0
        for example in examples_of(module, dead):
            [hidden] = [torch.zeros(len(example.tokens), 32)]
            prediction = module.student.prediction(example.document, example.tokens, hidden)
            assert [x.units for x in module.losses(prediction, example.signals)] == [0, 0, 0, 0]

    @pytest.mark.parametrize("batch", BATCHES)
    def test_every_parameter_has_a_gradient(self, setting, batch):
        gradients = reference(setting, setting.batches[batch], "bytes")
        trained = {n for n, p in plain_module(setting).named_parameters() if p.requires_grad}
        assert gradients.keys() == trained
        assert min(float(g.abs().max()) for g in gradients.values()) > 1e-8
        assert any(name.startswith("method_modules") for name in gradients)


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("micro_batch", [8, 2, 1])
def test_trainer_follows_the_objective(setting, step, batch, normalize, micro_batch):
    gradients, _ = step(setting.batches[batch], normalize, micro_batch)
    expected = reference(setting, setting.batches[batch], normalize)
    name, difference = largest_difference(gradients, expected)
    assert difference < 1e-5, name


def test_the_two_normalisations_differ(setting):
    by_bytes, by_units = (reference(setting, setting.batches["unequal"], n) for n in NORMALIZE)
    assert largest_difference(by_bytes, by_units)[1] > 0.1


class TestNothingToLearn:
    def test_methods_parameters_still_get_a_gradient(self, setting, dead):
        """Else ranks with and without work would reduce different parameters."""
        module = plain_module(setting)
        assert any(isinstance(t.method, LearnedMap) and t.method.lazy for t in module.terms)
        module(examples_of(module, dead)).sum().backward()
        owned = list(module.method_modules.parameters())
        assert len(owned) == 2
        assert all(p.grad is not None and not p.grad.any() for p in owned)

    @pytest.mark.parametrize("normalize", NORMALIZE)
    def test_no_unit_in_the_whole_batch(self, step, dead, normalize):
        gradients, report = step(dead, normalize, 2)
        assert report.losses == (0.0, 0.0, 0.0, 0.0)
        assert report.loss == 0
        assert report.update.grad_norm == 0
        assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize(("ranks", "global_batch"), [(1, 6), (2, 12)])
def test_a_last_incomplete_accumulation_is_refused(ranks, global_batch):
    changes = [f"train.global_batch={global_batch}", f"student.num_ranks={ranks}"]
    with pytest.raises(ConfigError, match=r"train\.global_batch: \d+ is not a multiple of"):
        load_run("smoke.yaml", changes)


def cells_of(folder: Path, *options: str) -> dict[tuple, dict]:
    """The grid's cells, from a process that has not used any thread of torch yet."""
    path = folder / "cells.json"
    command = [sys.executable, "-m", "benchmarks.normalisation", "--json", str(path), *options]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    if found.returncode:
        pytest.fail(found.stderr, pytrace=False)
    rows = json.loads(path.read_text())
    names = ("ranks", "accumulation", "stage", "batch", "normalize")
    return {tuple(row[name] for name in names): row for row in rows}


@pytest.fixture(scope="module")
def quick_cells(tmp_path_factory) -> dict[tuple, dict]:
    return cells_of(tmp_path_factory.mktemp("grid"), "--quick")


@pytest.fixture(scope="module")
def all_cells(tmp_path_factory) -> dict[tuple, dict]:
    return cells_of(tmp_path_factory.mktemp("grid"))


def assert_equal_gradients(cells: dict[tuple, dict], case: Case) -> None:
    for batch in BATCHES:
        for normalize in NORMALIZE:
            cell = cells[case.ranks, case.accumulation, case.stage, batch, normalize]
            assert not cell["error"], cell["error"]
            assert cell["difference"] <= 1e-5, (batch, normalize, cell["parameter"])


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_deepspeed_gives_the_gradient_of_plain_torch(quick_cells, case):
    assert_equal_gradients(quick_cells, case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_so_it_does_on_the_whole_grid(all_cells, case):
    assert_equal_gradients(all_cells, case)


def test_difference_sees_what_is_missing_or_not_a_number():
    one, nothing = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    assert largest_difference(one, one) == ("w", 0.0)
    assert largest_difference(one, one | {"v": torch.ones(1)}) == ("v", math.inf)
    assert largest_difference(one, nothing) == ("w", math.inf)
    assert math.isnan(largest_difference({"w": torch.tensor([math.nan, 1])}, one)[1])
