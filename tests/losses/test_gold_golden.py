"""ULD and GOLD against TRL, and ULD against tokenkit: references, then our methods.

The references hold whole tables in float64 and follow the published code step by step.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses import divergence
from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.gold import Gold
from losses.methods.uld import Uld
from losses.prediction import Head, Prediction

FOLDER = Path(__file__).parents[1] / "golden"
DATA = json.loads((FOLDER / "gold" / "uld_loss.json").read_text())
MERGE = json.loads((FOLDER / "gold" / "merge.json").read_text())
JSD = json.loads((FOLDER / "gold" / "jsd.json").read_text())
TOKENKIT = json.loads((FOLDER / "uld" / "uld.json").read_text())
RELATIVE, LEAST = 2e-5, 1e-8
DOCUMENT = text_document("d", "not read")
EMPTY = nn.ModuleDict()


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def merge_reference(probs, groups, ids, strategy):
    """``probs`` and ``ids`` from the same position on; observed is off by one on purpose."""
    rows = []
    for group in groups:
        if not group:
            rows.append(torch.zeros_like(probs[0]))
            continue
        row = probs[group[0] if strategy == "observed" else group[-1]]
        others = group[1:] if strategy == "observed" else group[:-1]
        for place in others:
            scalar = probs[place, ids[place]]
            row = row * (scalar.clamp(min=LEAST) if strategy == "observed" else scalar)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("case", MERGE["cases"], ids=range(len(MERGE["cases"])))
def test_merge_reference(case):
    merged = merge_reference(
        double(case["probs"]), case["groups"], case["token_ids"], case["strategy"]
    )
    torch.testing.assert_close(merged, double(case["out"]), rtol=RELATIVE, atol=1e-12)


def test_jensen_shannon_on_logits_and_on_what_is_no_distribution():
    student, teacher = double(JSD["student_logits"]), double(JSD["teacher_logits"])
    for case in JSD["cases"]:
        p, q = ((x / case["temperature"]).log_softmax(-1) for x in (teacher, student))
        rows = divergence.js(p.flatten(0, 1), q.flatten(0, 1), case["beta"]).view(p.shape[:2])
        if case["labels"] is not None:
            rows = rows[torch.tensor(case["labels"]) != -100]
        name, _, count = case["reduction"].partition("=")
        sizes = {"batchmean": rows.numel() if case["labels"] else len(student), "sum": 1}
        value = rows.sum() / sizes.get(name, float(count or 1))
        assert value.item() == pytest.approx(case["out"], rel=RELATIVE), case
    p, q = (double(JSD[f"probs_{side}"]).log() for side in ("teacher", "student"))
    for case in JSD["prob_cases"]:
        mean = divergence.js(p, q, case["beta"]).mean()
        assert mean.item() == pytest.approx(case["out"], rel=RELATIVE)


def answers(labels, keep_end):
    """Start and size of each answer; the end token is left out unless kept."""
    spans = []
    for row in np.array(labels):
        places = np.flatnonzero(row != -100)
        size = len(places) - (not keep_end and len(places) > 0)
        spans.append((places[0] if len(places) else 0, size))
    return spans


def groups_of(ours, theirs):
    """Two pointers: the side that ends first goes on; equal ends close a group of both sides."""
    groups, group, i, j = [], [[], []], -1, -1
    while i + 1 < len(ours) and j + 1 < len(theirs):
        i, j = i + 1, j + 1
        group[0].append(i)
        group[1].append(j)
        while ours[i] != theirs[j]:
            if ours[i] < theirs[j]:
                i += 1
                group[0].append(i)
            else:
                j += 1
                group[1].append(j)
        groups.append(group)
        group = [[], []]
    return groups


def trl_reference(case, student):
    config = case["config"]
    merge = config.get("uld_token_merge_strategy", "observed")
    teacher = double(case["teacher_logits"])
    sides = [
        (student, case["student_labels"], "student"),
        (teacher, case.get("teacher_labels", DATA["teacher_labels"]), "teacher"),
    ]
    spans = [answers(x[1], not config.get(f"uld_skip_{x[2]}_eos", True)) for x in sides]
    values = []
    for sample in range(len(student)):
        tables, ids, ends = [], [], []
        for (logits, _, name), span in zip(sides, spans, strict=True):
            start, size = span[sample]
            first = start - (merge == "bayesian")
            temperature = config.get(f"uld_{name}_temperature", 1.0)
            tables.append((logits[sample, first : first + size] / temperature).softmax(-1))
            ids.append(DATA[f"{name}_ids"][sample][start : start + size])
            offsets = DATA[f"{name}_byte_offsets"][sample][start : start + size]
            ends.append([end for _, end in offsets])
        if not len(ids[0]) or not len(ids[1]):
            values.append((student * 0).sum() * torch.ones(2))
            continue
        if config.get("use_extended_uld", True):
            groups = groups_of(*ends)
            tables = [
                merge_reference(table, [g[side] for g in groups], ids[side], merge)
                for side, table in enumerate(tables)
            ]
        size = min(len(table) for table in tables)
        values.append(trl_distance(case, *(table[:size] for table in tables)) / size)
    return torch.stack(values).mean(0)


def trl_distance(case, student, teacher):
    """Matched and unmatched part, summed over the groups."""
    mapping = case["vocab_mapping_teacher_to_student"] or []
    t, s = (torch.tensor([pair[i] for pair in mapping], dtype=torch.long) for i in (0, 1))
    matched = torch.zeros((), dtype=torch.float64)
    if mapping:
        p, q = (x.clamp(min=LEAST).log() for x in (teacher[:, t], student[:, s]))
        matched = divergence.js(p, q, case["config"].get("beta", 0.5)).sum()
    rest = []
    for table, used in ((student, s), (teacher, t)):
        others = torch.tensor(sorted(set(range(table.shape[1])) - set(used.tolist())))
        rest.append(table[:, others].sort(-1, descending=True).values)
    width = max(x.shape[1] for x in rest)
    padded = [nn.functional.pad(x, (0, width - x.shape[1])) for x in rest]
    return torch.stack([matched, (padded[0] - padded[1]).abs().sum()])


def weighted(case, parts):
    config = case["config"]
    if not config.get("uld_use_hybrid_loss"):
        return parts[1]
    width = double(case["teacher_logits"]).shape[-1]
    share = len(case["vocab_mapping_teacher_to_student"]) / width
    first = config.get("uld_hybrid_matched_weight", share)
    return first * parts[0] + config.get("uld_hybrid_unmatched_weight", 1 - share) * parts[1]


def cross_entropy(case, student):
    labels = torch.tensor(case["student_labels"])[:, 1:]
    return nn.functional.cross_entropy(
        student[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100
    )


@pytest.mark.parametrize("name", DATA["cases"])
def test_reference_meets_trl(name):
    case = DATA["cases"][name]
    student = double(case["student_logits"]).requires_grad_()
    total = weighted(case, trl_reference(case, student))
    config = case["config"]
    if "uld_crossentropy_weight" in config:
        total = config["uld_crossentropy_weight"] * cross_entropy(case, student) + (
            config["uld_distillation_weight"] * total
        )
    assert total.item() == pytest.approx(case["loss"], rel=RELATIVE)
    total.backward()
    expected = double(case["grad_student_logits"])
    torch.testing.assert_close(student.grad, expected, rtol=2e-4, atol=1e-7)


def side(name, logits, sample, labels):
    """A prediction whose prompt and end token are not scored."""
    start, size = answers(labels, keep_end=False)[sample]
    ends = np.full(start + size, -1)
    offsets = DATA[f"{name}_byte_offsets"][sample][start : start + size]
    ends[start:] = [end for _, end in offsets]
    ids = np.array(DATA[f"{name}_ids"][sample][: start + size])
    width = logits.shape[-1]
    return Prediction(
        tokens=Tokens(ids, ends),
        hidden=logits[sample, : start + size],
        head=Head(nn.Identity(), width),
        vocabulary=Vocabulary(tuple(b"%d" % i for i in range(width))),
        scored=torch.from_numpy(np.arange(start + size) >= start),
    )


def exact_projection(pairs, num_student, num_teacher):
    mapping = {s: t for t, s in pairs}
    exact = np.array([s in mapping for s in range(num_student)])
    return Projection(
        offsets=np.concatenate([[0], np.cumsum(exact)]),
        teacher_ids=np.array([mapping[s] for s in sorted(mapping)], dtype=np.int64),
        weights=np.ones(len(mapping), dtype=np.float32),
        num_teacher=num_teacher,
        exact=exact,
    )


def our_method(case):
    config = case["config"]
    options = {"k": 64, "precision": "float32"}
    options["merge"] = config.get("uld_token_merge_strategy", "observed")
    for name in ("student", "teacher"):
        options[f"{name}_temperature"] = config.get(f"uld_{name}_temperature", 1.0)
    if not config.get("uld_use_hybrid_loss"):
        if not config.get("use_extended_uld", True):
            options["merge"] = "positions"
        return Uld(**options)
    for name in ("matched", "unmatched"):
        if (weight := config.get(f"uld_hybrid_{name}_weight")) is not None:
            options[f"{name}_weight"] = weight
    return Gold(beta=config.get("beta", 0.5), **options)


SHIPPED = sorted(set(DATA["cases"]) - {"uld_plain_positional", "keep_eos", "keep_teacher_eos_only"})


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_methods_meet_trl(name):
    case = DATA["cases"][name]
    student = double(case["student_logits"]).requires_grad_()
    teacher = double(case["teacher_logits"])
    method, terms = our_method(case), []
    for sample in range(len(student)):
        if not answers(case["student_labels"], keep_end=False)[sample][1]:
            terms.append((student * 0).sum())
            continue
        own = side("student", student, sample, case["student_labels"])
        other = side("teacher", teacher, sample, DATA["teacher_labels"])
        pairs = case["vocab_mapping_teacher_to_student"] or []
        w = exact_projection(pairs, student.shape[-1], teacher.shape[-1])
        pair = Pair(own.vocabulary, other.vocabulary, projection=w)
        term = method.loss(own, method.signal(other, DOCUMENT), pair, EMPTY)
        terms.append(term.total / term.units)
    ours, expected = torch.stack(terms).mean(), weighted(case, trl_reference(case, student))
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, student)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", TOKENKIT["cases"], ids=range(len(TOKENKIT["cases"])))
def test_position_by_position_meets_tokenkit(case):
    """It compares all rows whose student token is not padding, and takes their mean."""
    total, units = 0.0, 0
    rows = zip(
        case["student_logits"], case["teacher_logits"], case["attention_mask_student"], strict=True
    )
    for student, teacher, mask in rows:
        count = sum(mask)
        sides = []
        for logits in (student, teacher):
            table = double(logits)[:count]
            table = torch.cat([table, table[:1]])  # a last token, so that every row predicts one
            sides.append(
                Prediction(
                    tokens=Tokens(np.zeros(count + 1, dtype=np.int64), np.arange(count + 1)),
                    hidden=table,
                    head=Head(nn.Identity(), table.shape[1]),
                    vocabulary=Vocabulary((b"a",) * table.shape[1]),
                    scored=torch.arange(count + 1) > 0,
                )
            )
        method = Uld(merge="positions", precision="float32")
        pair = Pair(sides[0].vocabulary, sides[1].vocabulary)
        term = method.loss(sides[0], method.signal(sides[1], DOCUMENT), pair, EMPTY)
        total, units = total + term.total.item(), units + term.units
    assert total / units == pytest.approx(case["loss"], rel=RELATIVE)
