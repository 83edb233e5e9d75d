"""Means of three models on one vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.ensembling.decoding import mixed_row
from orchestrator.ensembling.tokens import shared_outcomes

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/ensemble_derived.json").read_text())
WEIGHTS = torch.ones(3, dtype=torch.float64)


def mixed(logits: Any, text: torch.Tensor, mean: str) -> torch.Tensor:
    """Each row of the case, mixed as the ensemble does; without the end, which is impossible."""
    members = torch.tensor(logits, dtype=torch.float32)  # as the case was worked out
    rows = [
        mixed_row([shared_outcomes(member[row], text, []) for member in members], WEIGHTS, mean)
        for row in range(members.shape[1])
    ]
    return torch.stack(rows)[:, :-1]


@pytest.mark.parametrize(
    ("mean", "name"),
    [("arithmetic", "mean_prob_log"), ("geometric", "mean_logits_renormalised")],
)
def test_means(mean: str, name: str):
    found = mixed(GOLDEN["inputs"]["logits"], torch.ones(7, dtype=torch.bool), mean)
    torch.testing.assert_close(
        found, torch.tensor(GOLDEN[name], dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_rows_without_a_token_take_no_part():
    """Their place is not filled with token 0, nor do they count before the others are normed."""
    case = GOLDEN["padding_effect"]
    padded = torch.tensor(GOLDEN["inputs"]["logits"])
    assert padded[:, :, :5].tolist() == torch.tensor(case["logits"]).tolist()
    text = torch.tensor([True] * 5 + [False] * 2)
    found = mixed(padded.tolist(), text, "arithmetic")
    expected = torch.tensor(case["clean_log_prob"], dtype=torch.float64)
    torch.testing.assert_close(found[:, :5], expected, atol=1e-9, rtol=0)
    assert torch.isneginf(found[:, 5:]).all()
    wrong = torch.tensor(case["peer_style_log_prob_renormalised"])
    assert (found[:, :5] - wrong).abs().max() > 1e-2
