"""ALM against tokenkit's recorded losses and gradients (tests/golden/README.md)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.bias import PairBias
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.alm import Alm

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "alm_loss.json").read_text())
SHARED = GOLDEN["shared_inputs"]
CASES = {case["id"]: case for case in GOLDEN["cases"]}

NOT_COMPARED = {
    "chunk_sizes=[4]": "fixed runs of tokenkit's columns, deprecated there: the start token takes "
    "up the first column, so where runs begin depends on it, and they cut across words",
    "chunk_sizes=[1, 2, 4, 8]": "the same, and the runs of all sizes are averaged",
    "grad_accumulation,mode=merge_by_space_prob+append_space": "one document of a batch of two; "
    "see test_accumulated_document",
    "prompt_masked,mode=append_space": "scores the rest of a chunk that the mask cuts; compared "
    "where it cuts none in test_prompt_mask_that_cuts_no_chunk",
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


@pytest.fixture(scope="module")
def bias_file(tmp_path_factory):
    """The only two biases that give tokenkit's unbiased chunks: "lo" | "ello", "ld" | "orld"."""
    path = tmp_path_factory.mktemp("bias") / "bias.safetensors"
    fingerprints = {"teacher": PAIR.teacher.fingerprint, "student": PAIR.student.fingerprint}
    PairBias(
        teacher_ids=np.array([2, 4]),
        student_ids=np.array([2, 4]),
        teacher_bias=np.array([0.5, 0.0]),
        student_bias=np.array([0.0, 0.5]),
        **fingerprints,
    ).save(path)
    return str(path)


def options(case, bias_file):
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
        chunks={"unconstrained": "finest"}.get(case["chunk_kind"], case["chunk_kind"]),
        bias_file=bias_file if case["chunk_kind"] == "unbiased" else None,
    )


def run(predict, bias_file, case, dtype=torch.float64, rows=(0, 1)):
    """Total and units of these rows, and the gradient to the student's logits of both."""
    method, logits = options(case, bias_file), SHARED["logits"][case["logits"]]
    student_logits = torch.tensor(logits["student"], dtype=dtype, requires_grad=True)
    teacher_logits = torch.tensor(logits["teacher"], dtype=dtype)
    terms = []
    for row in rows:
        teacher = sequence(predict, "teacher", case, row, teacher_logits[row])
        student = sequence(predict, "student", case, row, student_logits[row])
        signal = method.signal(teacher, text_document("golden", ""))
        term = method.loss(student, signal, PAIR, nn.ModuleDict())
        scored = student.scored.numpy()
        assert method.num_units(student.tokens, scored, signal, PAIR) == term.units
        terms.append(term)
    total = sum(term.total for term in terms)
    total.backward()
    return total.item(), sum(term.units for term in terms), student_logits.grad.numpy()


def denominator(case, units):
    if case["params"]["distill_main_path_denominator"] == "chunk_count":
        return units
    return np.sum(case["outputs"]["chunk_teacher_token_count"])


def test_border_ids_are_the_peers():
    for side in ("student", "teacher"):
        assert (
            vocabulary(side).border_ids.tolist()
            == np.flatnonzero(SHARED[f"space_mask_{side}"]).tolist()
        )


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_loss_is_what_the_paper_means(predict, bias_file, name, dtype):
    case = CASES[name]
    total, units, _ = run(predict, bias_file, case, dtype)
    intended = case["reference_float64"]["loss_intended"]
    tolerance = 2e-5 * max(1, abs(intended))
    assert total / denominator(case, units) == pytest.approx(intended, abs=tolerance)


@pytest.mark.parametrize("name", [name for name in COMPARED if name not in NO_GRADIENT])
def test_gradient_is_the_peers_with_the_right_denominator(predict, bias_file, name):
    case = CASES[name]
    _, units, gradient = run(predict, bias_file, case)
    reference = case["reference_float64"]
    correction = 1.0
    if reference["loss_peer_denominator"]:
        correction = reference["loss_intended"] / reference["loss_peer_denominator"]
    peer = np.array(case["outputs"]["grad_student_logits"], dtype=np.float64) * correction
    np.testing.assert_allclose(gradient / denominator(case, units), peer, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(NO_GRADIENT))
def test_gradient_is_finite_where_the_peers_is_not(predict, bias_file, name):
    _, _, gradient = run(predict, bias_file, CASES[name], torch.float32)
    assert np.isfinite(gradient).all()
    peer = np.array(CASES[name]["outputs"]["grad_student_logits"], dtype=object)
    assert "NaN" in peer


@pytest.mark.parametrize("mode", ["append_space", "merge_by_space_prob+append_space"])
def test_prompt_mask_that_cuts_no_chunk(predict, bias_file, mode):
    # In the second row the mask cuts the chunk of tokens 2 and 3 in two: tokenkit scores token 3
    # alone, here the chunk is dead. The first row has no such chunk, and its gradient agrees.
    case = CASES[f"prompt_masked,mode={mode}"]
    total, units, gradient = run(predict, bias_file, case)
    reference, counts = case["reference_float64"], case["outputs"]["chunk_teacher_token_count"]
    peer_units = np.count_nonzero(counts)
    factor = peer_units * reference["loss_intended"] / reference["loss_peer_denominator"]
    peer = np.array(case["outputs"]["grad_student_logits"], dtype=np.float64) * factor
    np.testing.assert_allclose(gradient[0], peer[0], atol=1e-7)
    assert units == peer_units - (1 if mode == "append_space" else 0)
    assert total != pytest.approx(reference["loss_intended"] * peer_units, rel=1e-3)


def test_accumulated_document(predict, bias_file):
    # tokenkit gives each of two micro-batches its own mean, to be averaged later: twice what the
    # one document adds to the mean over both documents' chunks.
    case = CASES["grad_accumulation,mode=merge_by_space_prob+append_space"]
    total, _, gradient = run(predict, bias_file, case, rows=(0,))
    _, units, _ = run(predict, bias_file, case)
    peer = np.array(case["outputs"]["grad_student_logits"], dtype=np.float64)
    assert 2 * total / units == pytest.approx(case["outputs"]["loss"], abs=2e-5)
    np.testing.assert_allclose(2 * gradient[0] / units, peer[0], atol=1e-7)


FIRST = json.loads((Path(__file__).parents[1] / "golden" / "alm_loss_first_chunk.json").read_text())


@pytest.mark.parametrize("case", FIRST["cases"], ids=lambda case: case["id"])
def test_chunk_with_the_first_token_is_dead(predict, case):
    # Nothing predicts the first token. The second chunk is the same one token on both sides, so
    # the loss with "abs" is the difference of the peer's two log-probabilities of that chunk.
    given, outputs = case["inputs"], case["outputs"]
    sides = {}
    for side in ("teacher", "student"):
        words = given[f"vocab_{side}"][1:]
        table = (None, *(word.replace("Ġ", " ").encode() for word in words))
        ids = given[f"input_ids_{side}"][0]
        ends = np.cumsum([len(table[index]) for index in ids])
        logits = torch.tensor(given[f"{side}_logits"][0], dtype=torch.float64, requires_grad=True)
        sides[side] = predict(logits, ends, ids=ids, vocabulary=Vocabulary(table, {0: "end"}))
    method = Alm(divergence="abs", debias=given["alm_mode"] == "append_space", merge_threshold=None)
    signal = method.signal(sides["teacher"], text_document("golden", ""))
    pair = Pair(sides["student"].vocabulary, sides["teacher"].vocabulary)
    term = method.loss(sides["student"], signal, pair, nn.ModuleDict())
    student, teacher = (outputs[f"chunk_logprob_{side}"][0][1] for side in ("student", "teacher"))
    assert term.units == 1
    assert math.isnan(signal.logprob[0])
    assert term.total.item() == pytest.approx(abs(teacher - student), abs=1e-6)
