"""CDM against values worked out from its description (tests/golden/README.md).

The reference follows the published steps on whole tables in float64; the method must meet it on
other numbers too, with gradients.
"""

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from losses.alignment.vocabulary import Vocabulary
from losses.methods.cdm import Cdm
from losses.token_matching.context import context_factors
from losses.token_matching.context_tokens import entropies
from losses.token_matching.dynamic_mapping import Likely, partners, published_partners
from losses.token_matching.merging import merged_positions
from losses.token_matching.spelling import edit_distances
from losses.token_matching.time_warping import cheapest_path

MISSING = -10_000.0


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def factor_of(rows):
    """Straight from the description, 1e-10 included."""
    probs = rows.detach().softmax(-1)
    entropy = -(probs * (probs + 1e-10).log()).sum(-1)
    place = (entropy - entropy.min()) / (entropy.max() - entropy.min())
    return (3 * torch.sigmoid(4 * place - 2) + 3).int().numpy()


def stripped(text):
    return (text or "").replace(" ", "")


def distance_of(first, second):
    total = len(stripped(first)) + len(stripped(second))
    return Levenshtein.distance(stripped(first), stripped(second)) / max(1, total)


def merged_reference(teacher, student, texts):
    """Rows along the path, merged twice."""
    cost = np.array([[Levenshtein.distance(a, b) for b in texts[1]] for a in texts[0]])
    path = cheapest_path(cost * factor_of(teacher)[:, None] * factor_of(student))
    pairs = list(zip(path.teacher.tolist(), path.student.tolist(), strict=True))
    aligned = [teacher[[t for t, s in pairs if s == own]].mean(0) for own in range(len(student))]
    lists = dict.fromkeys(tuple(s for t, s in pairs if t == own) for own in range(len(teacher)))
    sides = [
        torch.stack([torch.stack([rows[s] for s in one]).mean(0) for one in lists])
        for rows in (aligned, student)
    ]
    return sides[0], sides[1]


def published_mapping(sources, targets, exact, words, threshold):
    """Position by position into one table; ids of open sources bar the same ids of targets."""
    table = list(exact)
    for ours, theirs in zip(sources, targets, strict=True):
        barred = {i for i in ours if table[i] < 0}
        for i in ours:
            found = [
                (distance_of(words[0][i], words[1][j]), rank, j)
                for rank, j in enumerate(theirs)
                if j not in barred and words[1][j] and words[0][i]
            ]
            if table[i] < 0 and found and min(found)[0] < threshold:
                table[i] = min(found)[2]
    return [[table[i] for i in ours] for ours in sources]


def clean_mapping(sources, targets, exact, words, threshold, taken):
    """One to one at each position; the closest pair first."""
    rows = []
    for ours, theirs in zip(sources, targets, strict=True):
        row = [exact[i] for i in ours]
        close = sorted(
            (distance_of(words[0][i], words[1][j]), a, b)
            for a, i in enumerate(ours)
            for b, j in enumerate(theirs)
            if row[a] < 0 and taken[j] < 0 and words[0][i] and words[1][j]
        )
        used = set()
        for distance, a, b in close:
            if distance < threshold and row[a] < 0 and b not in used:
                row[a] = theirs[b]
                used.add(b)
        rows.append(row)
    return rows


def values_at(rows, ids):
    return torch.stack(
        [
            torch.stack([row[i] if i >= 0 else row.new_tensor(MISSING) for i in own])
            for row, own in zip(rows, ids, strict=True)
        ]
    )


def reference(method, pair, texts, teacher, student):
    """The mean over merged positions."""
    merged = merged_reference(teacher, student, texts)
    tops = [m.topk(min(method.k, m.shape[1])).indices.tolist() for m in merged]
    words = [
        [None if b is None else b.decode() for b in v.token_bytes]
        for v in (pair.teacher, pair.student)
    ]
    exact = [
        [next((j for j, o in enumerate(words[1 - side]) if o == w and w), -1) for w in words[side]]
        for side in (0, 1)
    ]
    if method.published:
        found = [
            published_mapping(
                tops[i], tops[1 - i], exact[i], (words[i], words[1 - i]), method.threshold
            )
            for i in (0, 1)
        ]
    else:
        found = [
            clean_mapping(
                tops[i],
                tops[1 - i],
                exact[i],
                (words[i], words[1 - i]),
                method.threshold,
                exact[1 - i],
            )
            for i in (0, 1)
        ]
    halves = []
    for i in (0, 1):
        ids = [tops[0], found[0]] if i == 0 else [found[1], tops[1]]
        values = [values_at(m, own) for m, own in zip(merged, ids, strict=True)]
        missing = (values[0] == MISSING) | (values[1] == MISSING)
        halves.append([v.masked_fill(missing, MISSING) for v in values])
    tau = method.temperature
    if method.published:
        target = torch.cat([halves[0][0], halves[1][1]], -1)
        prediction = torch.cat([halves[0][1], halves[1][0]], -1)
        terms = target.softmax(-1) * (
            tau**2 * target.log_softmax(-1) - (prediction / tau).log_softmax(-1)
        )
        # lists are as long as k here, in the method they are padded with missing entries
        return terms.sum(-1).mean() / (2 * method.k)
    parts = []
    for values in halves:
        logs = [v.masked_fill(v == MISSING, -1e30).div(tau).log_softmax(-1) for v in values]
        kept = values[0] != MISSING
        parts.append((logs[0].exp() * torch.where(kept, logs[0] - logs[1], 0)).sum(-1))
    return ((parts[0] + parts[1]) / 2).mean()


@pytest.fixture
def toy_golden(golden):
    return golden("cdm/pipeline_toy")


def golden_pair(toy, data):
    sides = []
    for name in ("student", "teacher"):
        texts = data[f"{name}_vocab"]
        sides.append(Vocabulary((None, *(t.encode() for t in texts[1:])), {0: "other"}))
    return toy.pair_of(*sides)


def golden_sides(toy, data, method):
    pair = golden_pair(toy, data)
    rows, ids, sides = [], [], []
    for name, vocabulary in (("teacher", pair.teacher), ("student", pair.student)):
        rows.append(double(data[f"{name}_logits"]).requires_grad_(name == "student"))
        ids.append([data[f"{name}_vocab"].index(text) for text in data[f"{name}_input"]])
        sides.append(toy.side_of(rows[-1], ids[-1], vocabulary, after=method.published))
    return pair, rows, sides


def all_listed(toy, method, teacher, student, pair):
    """The teacher lists all of its tokens, so its means are exact; k of them are compared."""
    listed = Cdm(k=20, precision="float32", published=method.published)
    signal = listed.signal(teacher, toy.document)
    ahead = method.ahead(student.tokens, student.scored.numpy(), signal, pair)
    return method.loss(student, ahead, pair, toy.empty)


def test_entropy_factors(golden):
    for case in golden("cdm/entropy_factors")["cases"]:
        entropy = entropies(double(case["logits"]).log_softmax(-1)).squeeze(-1).numpy()
        assert entropy == pytest.approx(case["entropy"], abs=1e-7)
        assert context_factors(entropy).tolist() == (case["factor"] or [4])


def test_normalised_distance(golden):
    for case in golden("cdm/normalised_distance")["pairs"]:
        first, second = stripped(case["a"]), stripped(case["b"])
        found = edit_distances([first], [second]).item() / max(1, len(first) + len(second))
        assert found == pytest.approx(case["d"], abs=1e-12)


def test_path_and_merged_rows(toy_golden):
    data = toy_golden
    factors = []
    for side in ("teacher", "student"):
        logs = double(data[f"{side}_logits"]).log_softmax(-1)
        entropy = entropies(logs).squeeze(-1).numpy()
        assert entropy == pytest.approx(data[f"{side}_entropy"], abs=1e-7)
        factors.append(context_factors(entropy))
        assert factors[-1].tolist() == data[f"{side}_factor"]
    texts = [[stripped(t) for t in data[f"{side}_input"]] for side in ("teacher", "student")]
    path = cheapest_path(edit_distances(*texts) * factors[0][:, None] * factors[1])
    steps = list(map(list, zip(path.teacher.tolist(), path.student.tolist(), strict=True)))
    assert steps == data["path"]
    for side, members in zip(("teacher", "student"), merged_positions(path), strict=True):
        rows = np.array(data[f"{side}_logits"])[members.token] * members.weight[:, None]
        merged = np.zeros((members.num_positions, rows.shape[1]))
        np.add.at(merged, members.position, rows)
        np.testing.assert_allclose(merged, data[f"merged_{side}_logits"], atol=1e-12)


@pytest.mark.parametrize("form", ["stored_exclusion", "intended_exclusion"])
def test_partners(toy, toy_golden, form):
    data, find = toy_golden, published_partners if form == "stored_exclusion" else partners
    pair = golden_pair(toy, data)
    sides = []
    for name, other, words in (
        ("teacher", "student", pair.teacher),
        ("student", "teacher", pair.student),
    ):
        exact = np.array(data[f"exact_{name}_to_{other}"])
        ids = np.array(data[f"{name}_topk"])
        sides.append(Likely(ids, np.where(exact == 0, -1, exact), words, by_character=True))
    for (source, target), name in zip(
        (sides, sides[::-1]), ("teacher_to_student", "student_to_teacher"), strict=True
    ):
        table = np.array(data[form][name])[source.ids]
        assert find(source, target, data["threshold"]).tolist() == (
            np.where(table == 0, -1, table).tolist()
        )


def test_stored_loss(toy, toy_golden):
    method = Cdm(k=5, temperature=0.8, precision="float32", published=True)
    pair, rows, sides = golden_sides(toy, toy_golden, method)
    term = all_listed(toy, method, *sides, pair)
    expected = toy_golden["stored_exclusion"]["loss_stored_form"]
    assert term.units == 5
    assert term.total.item() / term.units == pytest.approx(expected, rel=1e-6)
    texts = [[stripped(t) for t in toy_golden[f"{s}_input"]] for s in ("teacher", "student")]
    assert reference(method, pair, texts, *rows).item() == pytest.approx(expected, rel=1e-9)


def test_clean_loss(toy, toy_golden):
    method = Cdm(k=5, precision="float32")
    pair, rows, sides = golden_sides(toy, toy_golden, method)
    term = all_listed(toy, method, *sides, pair)
    form = toy_golden["intended_exclusion"]
    halves = [np.mean(form[f"kl_{side}_topk_clean"]) for side in ("teacher", "student")]
    assert term.total.item() / term.units == pytest.approx(sum(halves) / 2, rel=1e-6)
    texts = [[stripped(t) for t in toy_golden[f"{s}_input"]] for s in ("teacher", "student")]
    assert reference(method, pair, texts, *rows).item() == pytest.approx(sum(halves) / 2, rel=1e-9)


METHODS = [
    Cdm(k=5, precision="float32"),
    Cdm(k=3, temperature=2.0, threshold=0.6, precision="float32"),
    Cdm(k=9, threshold=0.0, precision="float32"),
    Cdm(k=5, temperature=0.8, threshold=0.6, precision="float32", published=True),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("seed", range(6))
def test_method_and_gradient_meet_the_reference(toy, method, seed):
    """With gradients."""
    teacher, own, student = toy.sides(7 * seed, after=method.published)
    term = all_listed(toy, method, teacher, student, toy.pair)
    rows = teacher.hidden[1:] if method.published else teacher.hidden[:-1]
    texts = [
        [stripped(words[i].decode()) for i in ids]
        for words, ids in (
            (toy.pair.teacher.token_bytes, toy.teacher_ids),
            (toy.pair.student.token_bytes, toy.student_ids),
        )
    ]
    expected = reference(method, no_roles(toy), texts, rows, own)
    assert (term.total / term.units).item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    ours = torch.autograd.grad(term.total / term.units, own)[0]
    theirs = torch.autograd.grad(expected, own)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def no_roles(toy):
    """The reference knows no roles; end tokens are given one text of their own."""
    sides = []
    for vocabulary in (toy.pair.student, toy.pair.teacher):
        sides.append(Vocabulary((b"\x00" * 40, *vocabulary.token_bytes[1:])))
    return toy.pair_of(*sides)
