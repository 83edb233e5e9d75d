"""P-KL and H-KL against NVIDIA-NeMo/RL: a plain reference meets its numbers, our methods meet both.

The reference, ``XToken`` of the fixtures, follows the published code step by step.
"""

import json
from pathlib import Path

import pytest
import torch

from losses.chunk_distributions.matched import matched_of

FOLDER = Path(__file__).parents[1] / "golden" / "xtoken"
DATA = json.loads((FOLDER / "loss_single_teacher.json").read_text())
NUM_TEACHER, RELATIVE = 24, 2e-5
CPU = torch.device("cpu")


@pytest.fixture
def published(xtoken):
    return xtoken(DATA)


@pytest.mark.parametrize("name", DATA["cases"])
def test_reference_meets_the_published_numbers(name, published):
    case = DATA["cases"][name]
    config = case["config"]
    student, teacher = published.inputs(case)
    kd = published.reference(case, student, teacher)
    ce = published.cross_entropy(case, student)
    assert kd.item() == pytest.approx(case["metrics"]["kl_loss"], rel=RELATIVE)
    assert ce.item() == pytest.approx(case["metrics"]["ce_loss"], rel=RELATIVE)
    if config["dynamic_loss_scaling"]:
        scale = (ce / kd).abs().item() if kd else 1.0
        total = scale * kd + ce
    else:
        total = config["kl_loss_weight"] * kd + config["ce_loss_scale"] * ce
    assert total.item() == pytest.approx(case["loss"], rel=RELATIVE)
    if not total.requires_grad:
        return
    total.backward()
    expected = torch.tensor(case["grad_student_logits"], dtype=torch.float64)
    torch.testing.assert_close(student.grad, expected, rtol=2e-4, atol=1e-7)


WHOLE = [
    name
    for name, case in DATA["cases"].items()
    if case["config"]["vocab_topk"] >= NUM_TEACHER and not case["config"]["exact_token_match_only"]
]


@pytest.mark.parametrize("name", WHOLE)
def test_shipped_methods_meet_the_reference(name, published):
    case = DATA["cases"][name]
    student, teacher = published.inputs(case)
    ours = published.shipped(case, student, teacher)
    expected = published.reference(case, student, teacher)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    assert ours.item() == pytest.approx(case["metrics"]["kl_loss"], rel=RELATIVE)
    if expected.requires_grad:
        gradients = [torch.autograd.grad(x, student)[0] for x in (ours, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_a_mean_over_the_global_batch_does_not_depend_on_its_split(published):
    held = json.loads((FOLDER / "loss_microbatch_split.json").read_text())["cases"]
    for name, values in held.items():
        case = DATA["cases"][name]
        whole = values["one_microbatch_of_2"]["kl_loss"]
        split = values["two_microbatches_of_1_summed"]["kl_loss"]
        halves = [case | {"sample_mask": mask} for mask in ([1, 0], [0, 1])]
        parts = [published.shipped(half, *published.inputs(half)) for half in halves]
        assert sum(parts).item() == pytest.approx(split, rel=RELATIVE)
        # both halves have five units: the engine divides by all ten
        assert sum(5 * part for part in parts).item() / 10 == pytest.approx(whole, rel=RELATIVE)


@pytest.mark.parametrize("kind", ["strict", "relaxed"])
def test_common_sets_are_the_published_ones(kind, published):
    held = json.loads((FOLDER / "exact_map.json").read_text())
    for case in held["cases"]:
        if case["xtoken_loss"] != (kind == "relaxed") or case["teacher_vocab_size"] != NUM_TEACHER:
            continue
        matched = matched_of(published.projection(case["projection"]), CPU, kind)
        pairs = sorted(zip(matched.students.tolist(), matched.teachers.tolist(), strict=True))
        expected = sorted(zip(case["common_student"], case["common_teacher"], strict=True))
        assert pairs == expected
        assert matched.other_students.tolist() == case["uncommon_student"]
