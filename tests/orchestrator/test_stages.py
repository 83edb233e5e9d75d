"""Stages: only the embeddings move first, then all; rates, moments and resuming across the border.

The engine is plain torch here; ``test_deepspeed_stages`` has DeepSpeed's.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orchestrator.student.gradients import last_trained
from orchestrator.student.layers import layer_list
from orchestrator.student.stages import RateCourse, Stage, embedding_parameters
from orchestrator.student.state import load_weights_into, restore, save_state

STAGES = (Stage(2, embeddings_only=True, learning_rate=0.02), Stage(3))
NUM_STEPS = 5
ROWS = ("model.model.embed_tokens.weight", "model.lm_head.weight")


def trainer_of(lab, stages=STAGES, **options):
    return lab.trainer(stages=stages, max_steps=NUM_STEPS, weight_decay=0.1, **options)


def train(lab, trainer, first: int = 0, last: int = NUM_STEPS) -> list:
    """One step a document pair, so that steps differ."""
    reports = []
    for step in range(first, last):
        rows = [step % len(lab.documents), (step + 1) % len(lab.documents)]
        documents = [lab.documents[i] for i in rows]
        num_bytes = sum(document.num_scored_bytes for document in documents)
        reports.append(trainer.step(documents, [lab.signals[i] for i in rows], num_bytes))
    return reports


@pytest.fixture(scope="module")
def lab(distillation):
    return distillation()


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.engine.module.named_parameters()}


def test_only_embeddings_move_first(lab):
    trainer = trainer_of(lab)
    before = weights_of(trainer)
    train(lab, trainer, last=2)
    after = weights_of(trainer)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == set(ROWS)
    train(lab, trainer, first=2, last=3)
    again = weights_of(trainer)
    assert all(not torch.equal(value, after[name]) for name, value in again.items())


def test_rates(lab):
    rates = [report.update.learning_rate for report in train(lab, trainer_of(lab))]
    assert rates == pytest.approx([0.02, 0.02, 0.01, 0.01, 0.01])
    options = {"warmup_steps": 1, "lr_schedule": "linear"}
    rates = [r.update.learning_rate for r in train(lab, trainer_of(lab, **options))]
    assert rates == pytest.approx([0.02, 0.02, 0.01, 0.01, 0.005])


def test_without_stages_nothing_changes(lab):
    course = RateCourse("cosine", 1, 10, 0.1)
    plain = RateCourse("cosine", 1, 10, 0.1, (Stage(10),))
    for part in ("always", "rest", "own rate"):
        ours, theirs = course.factor(part), plain.factor(part)
        assert [ours(step) for step in range(12)] == [theirs(step) for step in range(12)]
    one, none = trainer_of(lab, (Stage(5),)), trainer_of(lab, ())
    losses = [[r.loss for r in train(lab, trainer)] for trainer in (one, none)]
    assert losses[0] == losses[1]


def test_what_methods_train_keeps_its_own_rate():
    factor = RateCourse("constant", 0, 5, 0.01, STAGES).factor("own rate")
    assert [factor(step) for step in range(5)] == [1.0] * 5


def test_moments_across_the_border(lab):
    """Embeddings go on; the rest begins, with AdamW's first step of full size."""
    trainer = trainer_of(lab)
    train(lab, trainer, last=2)
    assert set(trainer.engine.state.num_updates().values()) == {0, 2}
    before = weights_of(trainer)
    train(lab, trainer, first=2, last=3)
    counts = trainer.engine.state.num_updates()
    assert {counts[name] for name in ROWS} == {3}
    assert {count for name, count in counts.items() if name not in ROWS} == {1}
    layer = "model.model.layers.0.mlp.up_proj.weight"
    step = weights_of(trainer)[layer] - before[layer] * (1 - 0.01 * 0.1)
    assert float(step.abs().median()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("saved", [1, 2, 4])
def test_resumed_before_at_and_after_the_border(lab, tmp_path: Path, saved):
    whole = trainer_of(lab)
    train(lab, whole, last=saved)
    save_state(whole.engine, saved, tmp_path / "state", 0)
    expected = train(lab, whole, first=saved)
    fresh = trainer_of(lab, ())  # as a module is before an engine wraps it
    load_weights_into(fresh.engine.module, tmp_path / "state")
    again = trainer_of(lab)
    again.engine.module.load_state_dict(fresh.engine.module.state_dict())
    restore(again.engine, tmp_path / "state")
    found = train(lab, again, first=saved)
    assert [r.loss for r in found] == [r.loss for r in expected]
    assert [r.update for r in found] == [r.update for r in expected]
    theirs = weights_of(whole)
    assert all(torch.equal(value, theirs[name]) for name, value in weights_of(again).items())


def test_shares_of_the_gradient_while_layers_are_frozen(lab):
    trainer = trainer_of(lab)
    model = trainer.engine.module.model
    assert last_trained(model) == embedding_parameters(model)
    report = trainer.step(lab.documents, lab.signals, lab.num_scored_bytes, measure_shares=True)
    assert sum(report.shares) == pytest.approx(1)
    train(lab, trainer, last=1)
    assert last_trained(model) == list(layer_list(model)[-1].parameters())


def test_tied_rows_are_one(language_model):
    model = language_model("gpt2").model
    assert len(embedding_parameters(model)) == 1
    assert replace(Stage(1), learning_rate=None) == Stage(1)
