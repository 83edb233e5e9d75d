"""ALM against tokenkit's recorded losses and gradients (tests/golden/README.md)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.alm import Alm

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "alm_loss.json").read_text())
SHARED = GOLDEN["shared_inputs"]
CASES = {case["id"]: case for case in GOLDEN["cases"]}

NOT_COMPARED = {
    "kind=space,mode=append_space": "whitespace-word chunks are not offered",
    "kind=space,mode=merge_by_space_prob+append_space": "whitespace-word chunks are not offered",
    "kind=unbiased,mode=append_space": "precomputed-bias chunks (appendix F) are not offered",
    "kind=unbiased,mode=merge_by_space_prob+append_space": "appendix F is not offered",
    "chunk_sizes=[4]": "fixed runs of chunks, deprecated by tokenkit itself, are not offered",
    "chunk_sizes=[1, 2, 4, 8]": "fixed runs of chunks are not offered",
    "grad_accumulation,mode=merge_by_space_prob+append_space": "no reference of what is meant",
    "prompt_masked,mode=append_space": "scores part of a chunk that a mask cuts; see the test",
    "prompt_masked,mode=merge_by_space_prob+append_space": "the same",
}
COMPARED = [name for name in CASES if name not in NOT_COMPARED]
NO_GRADIENT = {"threshold=0.99", "threshold=1", "extreme,diff=binary_ce,tau=1"} | {
    "extreme,diff=reverse_binary_kl,tau=100",
    "extreme,diff=abs_exp,tau=100",
}
"""tokenkit's gradient is not finite, or wrong where its border probability underflows."""


def vocabulary(side: str) -> Vocabulary:
    pieces = SHARED[f"bytes_hex_{side}"]
    content = tuple(None if piece is None else bytes.fromhex(piece) for piece in pieces)
    return Vocabulary(content, {0: "end"})


PAIR = Pair(vocabulary("student"), vocabulary("teacher"))


def sequence(predict, side, case, row, logits):
    words = vocabulary(side)
    length = sum(SHARED[f"attention_mask_{side}"][row])
    ids = np.array(SHARED[f"input_ids_{side}"][row][:length])
    widths = [len(words.token_bytes[index] or b"") for index in ids]
    ends = np.where(np.array(widths) > 0, np.cumsum(widths), -1)
    mask = np.array(SHARED["loss_masks"][case["loss_mask"]][side][row][:length], dtype=bool)
    scored = mask & (ends > 0)
    return predict(logits[:length], ends, ids=ids, vocabulary=words, scored=scored)


def options(case):
    params, mode = case["params"], case["params"]["alm_mode"]
    name = params["alm_diff_fn"]
    without = {"abs", "binary_kl_temp_limit", "renyi"}
    return Alm(
        divergence=name,
        temperature=None if name in without else params["binarization_temp"],
        alpha=params.get("renyi_alpha"),
        debias="append_space" in mode,
        merge_threshold=(
            params["tokenizer_pair_bias_threshold"] if "merge_by_space_prob" in mode else None
        ),
        border="end" if "eos_as_space" in mode else "words",
        weighting=params["distill_main_path_numerator"],
    )


def run(predict, case, dtype=torch.float64):
    """Total, units and the gradient to the student's logits of both rows."""
    method, logits = options(case), SHARED["logits"][case["logits"]]
    student_logits = torch.tensor(logits["student"], dtype=dtype, requires_grad=True)
    teacher_logits = torch.tensor(logits["teacher"], dtype=dtype)
    terms = []
    for row in range(2):
        teacher = sequence(predict, "teacher", case, row, teacher_logits[row])
        student = sequence(predict, "student", case, row, student_logits[row])
        signal = method.signal(teacher, text_document("golden", ""))
        term = method.loss(student, signal, PAIR, nn.ModuleDict())
        scored = student.scored.numpy()
        assert method.num_units(student.tokens, scored, signal, PAIR) == term.units
        terms.append(term)
    total = terms[0].total + terms[1].total
    total.backward()
    return total.item(), terms[0].units + terms[1].units, student_logits.grad.numpy()


def denominator(case, units):
    if case["params"]["distill_main_path_denominator"] == "chunk_count":
        return units
    return np.sum(case["outputs"]["chunk_teacher_token_count"])


def test_border_ids_are_the_peers():
    for side in ("student", "teacher"):
        assert vocabulary(side).border_ids.tolist() == np.flatnonzero(
            SHARED[f"space_mask_{side}"]
        ).tolist()


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_loss_is_what_the_paper_means(predict, name, dtype):
    case = CASES[name]
    total, units, _ = run(predict, case, dtype)
    intended = case["reference_float64"]["loss_intended"]
    tolerance = 2e-5 * max(1, abs(intended))
    assert total / denominator(case, units) == pytest.approx(intended, abs=tolerance)


@pytest.mark.parametrize("name", [name for name in COMPARED if name not in NO_GRADIENT])
def test_gradient_is_the_peers_with_the_right_denominator(predict, name):
    case = CASES[name]
    _, units, gradient = run(predict, case)
    reference = case["reference_float64"]
    correction = 1.0
    if reference["loss_peer_denominator"]:
        correction = reference["loss_intended"] / reference["loss_peer_denominator"]
    peer = np.array(case["outputs"]["grad_student_logits"], dtype=np.float64) * correction
    np.testing.assert_allclose(gradient / denominator(case, units), peer, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(NO_GRADIENT))
def test_gradient_is_finite_where_the_peers_is_not(predict, name):
    _, _, gradient = run(predict, CASES[name], torch.float32)
    assert np.isfinite(gradient).all()
    peer = np.array(CASES[name]["outputs"]["grad_student_logits"], dtype=object)
    assert any(isinstance(entry, str) for entry in peer.flat) == ("abs_exp" not in name)
