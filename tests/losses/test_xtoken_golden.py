"""P-KL and H-KL against NVIDIA-NeMo/RL: a plain reference meets its numbers, our methods meet both.

The references hold whole tables in float64 and follow the published code step by step.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.chunk_distributions.matched import matched_of
from losses.document import text_document
from losses.methods import method_class
from losses.prediction import Head, Prediction

FOLDER = Path(__file__).parents[1] / "golden" / "xtoken"
DATA = json.loads((FOLDER / "loss_single_teacher.json").read_text())
NUM_TEACHER, RELATIVE = 24, 2e-5
DOCUMENT = text_document("d", "not read")
CPU = torch.device("cpu")


def projection(name):
    """The golden file's W: padding and zeros dropped, the heaviest first."""
    held = DATA["projections"][name]
    rows = []
    for ids, weights in zip(held["indices"], held["likelihoods"], strict=True):
        kept = [(i, w) for i, w in zip(ids, weights, strict=True) if 0 <= i < NUM_TEACHER and w > 0]
        rows.append(sorted(kept, key=lambda entry: -entry[1]))
    entries = [entry for row in rows for entry in row]
    held_rows = zip(held["indices"], held["likelihoods"], strict=True)
    return Projection(
        offsets=np.cumsum([0, *(len(row) for row in rows)]),
        teacher_ids=np.array([index for index, _ in entries]),
        weights=np.array([weight for _, weight in entries], dtype=np.float32),
        num_teacher=NUM_TEACHER,
        # the published code wants padding, not a zero, in the second place
        exact=np.array([w[0] == 1 and i[1] == -1 for i, w in held_rows]),
    )


def dense(w):
    table = torch.zeros(w.num_student, NUM_TEACHER, dtype=torch.float64)
    table.index_put_(
        (torch.from_numpy(w.student_ids), torch.from_numpy(w.teacher_ids)),
        torch.from_numpy(w.weights).double(),
        accumulate=True,
    )
    return table


def inputs(case):
    student = torch.tensor(case["student_logits"], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(case["teacher_logits"][0], dtype=torch.float64)[..., :NUM_TEACHER]
    return student, teacher


def shifted(ids):
    return np.concatenate([np.array(ids)[:, 1:], np.full((len(ids), 1), -1)], axis=1)


def chunks(case):
    """(sample, student rows, teacher rows) of every chunk that counts."""
    alignment, exact = DATA["alignment"], case["config"]["exact_token_match_only"]
    only_exact = exact and not case["config"]["gold_loss"]
    student, teacher = (shifted(alignment[f"{s}_chunk_id"]) for s in ("student", "teacher"))
    valid = np.array(alignment["pair_valid"]) * np.array(case["sample_mask"])[:, None]
    if only_exact:
        valid = valid * np.array(alignment["pair_is_correct"])
    for sample, chunk in np.argwhere(valid):
        rows = np.flatnonzero(student[sample] == chunk), np.flatnonzero(teacher[sample] == chunk)
        if len(rows[0]) and len(rows[1]):
            yield sample, *rows


def divergence(p, q, reverse):
    return (q.exp() * (q - p) if reverse else p.exp() * (p - q)).sum()


def pkl_reference(case, student, teacher):
    config, w = case["config"], dense(projection(case["teachers"][0]["projection"]))
    temperature = config["temperature"]
    top = teacher.flatten(0, 1).amax(0).topk(min(config["vocab_topk"], NUM_TEACHER)).indices
    probs = (student / temperature).softmax(-1) @ w[:, top]
    logs = (teacher[..., top] / temperature).log_softmax(-1)
    values = []
    for sample, ours, theirs in chunks(case):
        mass = probs[sample, ours].mean(0)
        projected = (mass / (mass.sum() + 1e-10) + 1e-10).log()
        values.append(divergence(logs[sample, theirs].mean(0), projected, config["reverse_kl"]))
    total = torch.stack(values).mean() if values else torch.zeros(())
    return temperature**2 * total


def hkl_reference(case, student, teacher):
    config, w = case["config"], projection(case["teachers"][0]["projection"])
    temperature = config["temperature"]
    matched = matched_of(w, CPU, "relaxed" if config["xtoken_loss"] else "strict")
    s, t = matched.students, matched.teachers
    other_s = torch.tensor(sorted(set(range(w.num_student)) - set(s.tolist())), dtype=torch.long)
    other_t = torch.tensor(sorted(set(range(NUM_TEACHER)) - set(t.tolist())), dtype=torch.long)
    n = min(len(other_s), len(other_t), config["uncommon_topk"])
    values = []
    for sample, ours, theirs in chunks(case):
        own = (student[sample, ours] / temperature).log_softmax(-1).mean(0)
        q = (teacher[sample, theirs] / temperature).log_softmax(-1).mean(0)
        common = divergence(q[t], own[s], config["reverse_kl"])
        sides = [x.exp().sort(descending=True).values[:n] for x in (own[other_s], q[other_t])]
        values.append(common + (sides[0] - sides[1]).abs().sum())
    return temperature**2 * torch.stack(values).mean()


def cross_entropy(case, student):
    logs = student.log_softmax(-1)[:, :-1]
    ids = torch.tensor(DATA["student_ids"])[:, 1:, None]
    mask = torch.tensor(DATA["student_mask"])[:, 1:] * torch.tensor(case["sample_mask"])[:, None]
    nll = -(logs.gather(-1, ids).squeeze(-1) * mask).sum()
    return nll / (case["global_valid_toks"] + 1e-8)


def reference(case, student, teacher):
    return (hkl_reference if case["config"]["gold_loss"] else pkl_reference)(case, student, teacher)


@pytest.mark.parametrize("name", DATA["cases"])
def test_reference_meets_the_published_numbers(name):
    case = DATA["cases"][name]
    config = case["config"]
    student, teacher = inputs(case)
    kd, ce = reference(case, student, teacher), cross_entropy(case, student)
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


def predictions(case, student, teacher, sample):
    """Both sides of one sample; chunk c ends at byte 10 (c + 1), inner tokens before that."""
    sides = []
    for name, logits in (("student", student), ("teacher", teacher)):
        chunk = np.array(DATA["alignment"][f"{name}_chunk_id"][sample])
        count = int((chunk >= 0).sum())
        inner = np.arange(count) + (1 if name == "student" else 11)
        last = np.append(np.diff(chunk[:count]) > 0, True)
        ends = np.where(last, 100 * (chunk[:count] + 1), 100 * chunk[:count] + inner)
        marks = torch.arange(count) > 0
        size = logits.shape[-1]
        sides.append(
            Prediction(
                tokens=Tokens(np.array(DATA[f"{name}_ids"][sample][:count]), ends),
                hidden=logits[sample, :count],
                head=Head(nn.Identity(), size),
                vocabulary=Vocabulary(tuple(b"%d" % i for i in range(size))),
                scored=marks,
            )
        )
    return sides


def method(config):
    """Our method with the case's options; None if only the reference can do it."""
    options = {"k": 64, "chunk": "mean", "precision": "float32"}
    if config["reverse_kl"]:
        options["divergence"] = "reverse"
    if config["temperature"] != 1:
        options |= {"temperature": config["temperature"], "times_temperature_squared": True}
    if not config["gold_loss"]:
        return method_class("p_kl")(**options)
    common = "relaxed" if config["xtoken_loss"] else "strict"
    return method_class("h_kl")(common=common, uncommon_k=config["uncommon_topk"], **options)


def shipped(case, student, teacher):
    chosen = method(case["config"])
    w = projection(case["teachers"][0]["projection"])
    total, units = torch.zeros((), dtype=torch.float64), 0
    for sample in np.flatnonzero(case["sample_mask"]):
        own, other = predictions(case, student, teacher, sample)
        pair = Pair(own.vocabulary, other.vocabulary, projection=w)
        signal = chosen.signal(other, DOCUMENT)
        term = chosen.loss(own, signal, pair, nn.ModuleDict())
        assert term.units == chosen.num_units(own.tokens, own.scored.numpy(), signal, pair)
        total, units = total + term.total, units + term.units
    return total / max(1, units)


WHOLE = [
    name
    for name, case in DATA["cases"].items()
    if case["config"]["vocab_topk"] >= NUM_TEACHER and not case["config"]["exact_token_match_only"]
]


@pytest.mark.parametrize("name", WHOLE)
def test_shipped_methods_meet_the_reference(name):
    case = DATA["cases"][name]
    student, teacher = inputs(case)
    ours = shipped(case, student, teacher)
    expected = reference(case, student, teacher)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    assert ours.item() == pytest.approx(case["metrics"]["kl_loss"], rel=RELATIVE)
    if expected.requires_grad:
        gradients = [torch.autograd.grad(x, student)[0] for x in (ours, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_a_mean_over_the_global_batch_does_not_depend_on_its_split():
    held = json.loads((FOLDER / "loss_microbatch_split.json").read_text())["cases"]
    for name, values in held.items():
        case = DATA["cases"][name]
        whole = values["one_microbatch_of_2"]["kl_loss"]
        published = values["two_microbatches_of_1_summed"]["kl_loss"]
        parts = [shipped(case | {"sample_mask": mask}, *inputs(case)) for mask in ([1, 0], [0, 1])]
        assert sum(parts).item() == pytest.approx(published, rel=RELATIVE)
        # both halves have five units: the engine divides by all ten
        assert sum(5 * part for part in parts).item() / 10 == pytest.approx(whole, rel=RELATIVE)


@pytest.mark.parametrize("kind", ["strict", "relaxed"])
def test_common_sets_are_the_published_ones(kind):
    held = json.loads((FOLDER / "exact_map.json").read_text())
    for case in held["cases"]:
        if case["xtoken_loss"] != (kind == "relaxed") or case["teacher_vocab_size"] != NUM_TEACHER:
            continue
        matched = matched_of(projection(case["projection"]), CPU, kind)
        pairs = sorted(zip(matched.students.tolist(), matched.teachers.tolist(), strict=True))
        expected = sorted(zip(case["common_student"], case["common_teacher"], strict=True))
        assert pairs == expected
        assert matched.other_students.tolist() == case["uncommon_student"]
