"""A loss that is not finite: the run stops and says at which step, by which teacher, on what."""

import math
from types import SimpleNamespace

import pytest
import torch

from losses.document import text_document
from orchestrator import arm as arms
from orchestrator.arm import Arm, run_step
from orchestrator.errors import TrainingDiverged
from orchestrator.stream import Request, StepBatch


def message(trainer, distillation, spoil) -> str:
    """What the trainer says when ``spoil`` changed the terms' totals."""
    forward = trainer.engine.forward
    trainer.engine.forward = lambda examples, probe=None: spoil(forward(examples, probe))
    before = {n: p.clone() for n, p in trainer.engine.module.named_parameters()}
    with pytest.raises(TrainingDiverged) as caught:
        trainer.step(distillation.documents, distillation.signals, distillation.num_scored_bytes)
    after = dict(trainer.engine.module.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in before.items())  # no step was taken
    return str(caught.value)


class TestTrainer:
    """The rank names teacher, method and documents."""

    @pytest.mark.parametrize(
        ("index", "value", "said"),
        [
            (0, math.nan, "ce is nan"),
            (1, math.inf, "same/kl is inf"),
            (2, math.nan, "other/alm is nan"),
        ],
    )
    def test_names_the_term(self, distillation, index, value, said):
        case = distillation()

        def spoil(totals: torch.Tensor) -> torch.Tensor:
            change = torch.zeros_like(totals)
            change[index] = value
            return totals + change

        text = message(case.trainer(), case, spoil)
        assert text.startswith(f"the loss is not finite: {said} on documents ")
        named = text.partition("on documents ")[2].partition(";")[0].split(", ")
        assert len(named) == 2  # the micro-batch
        assert set(named) <= {document.name for document in case.documents}
        assert "lower train.learning_rate" in text

    def test_names_every_term(self, distillation):
        case = distillation()
        text = message(case.trainer(), case, lambda totals: totals * math.nan)
        assert "ce is nan, same/kl is nan, other/alm is nan on documents" in text

    def test_sum_alone(self, distillation):
        case = distillation()
        huge = 1.5 * torch.finfo(torch.float32).max / 2
        trainer = case.trainer(weights=(1e38, 1e38, 1e38))
        text = message(trainer, case, lambda totals: totals * 0 + huge)
        assert text.startswith("the loss is not finite: the weighted sum on documents ")


def test_the_driver_names_the_step(monkeypatch: pytest.MonkeyPatch):
    def collect(*_: object) -> dict[str, object]:
        raise TrainingDiverged("the loss is not finite: gemma/alm is nan on documents a:1")

    monkeypatch.setattr(arms, "collect", collect)
    step = SimpleNamespace(remote=lambda *_, **__: "pending")
    arm = Arm({"student/0": SimpleNamespace(step=step)}, {}, ("ce",))
    batch = StepBatch.of(7, [text_document("a:1", "text")], 1)
    request = Request(batch, ({},), {})
    with pytest.raises(TrainingDiverged) as caught:
        run_step(arm, request, measure_shares=False, timeout_s=1.0)
    assert str(caught.value) == (
        "step 7: the loss is not finite: gemma/alm is nan on documents a:1"
    )
