"""Losses written down cell by cell over all tokens of toy vocabularies, chunk by chunk."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld

BORDERS = [0, 2, 3, 7, 9, 10, 14]
EXACT = "float32"


@dataclass
class Half:
    """One side of a chunk: its first row without the chunk, and the chunk's joint probability."""

    row: list[float]
    first: int
    joint: float
    num_tokens: int


def halves(toy, teacher, student):
    """(teacher, student) of each chunk."""
    for begin, end in itertools.pairwise(BORDERS):
        found = []
        for side, ends in ((teacher, toy.teacher_ends), (student, toy.student_ends)):
            table, ids = side.hidden.detach().softmax(-1), side.tokens.ids
            tokens = [i for i, e in enumerate(ends) if begin < e <= end]
            joint = float(np.prod([table[i - 1, ids[i]].item() for i in tokens]))
            row = table[tokens[0] - 1].tolist()
            row[ids[tokens[0]]] -= joint
            found.append(Half(row, int(ids[tokens[0]]), joint, len(tokens)))
        if found[0].num_tokens == found[1].num_tokens == 1:
            for half in found:
                half.row[half.first] += half.joint
                half.joint = 0.0
        yield found


def spread(w):
    """Student token -> [(teacher token, weight)], weights summing to one or nothing."""
    found = []
    for s in range(w.num_student):
        row = w.row(s)
        whole = sum(row.values())
        found.append([(t, v / whole) for t, v in row.items()])
    return found


def partition(w, common):
    """Student token -> its partner, of several claims on one the heaviest, then the lowest id."""
    claims = {}
    for s in range(w.num_student):
        for t, weight in itertools.islice(w.row(s).items(), 1):
            if common != "strict" or w.exact[s]:
                claims.setdefault(t, []).append((-weight, s))
    winners = {min(claim)[1]: t for t, claim in claims.items()}
    return [[(winners[s], 1.0)] if s in winners else [] for s in range(w.num_student)]


def cells_of(theirs, ours, weights):
    """(teacher, student) masses: each teacher token, the chunk, everything else."""
    cells, lost = [[mass, 0.0] for mass in theirs.row], 0.0
    for mass, entries in zip(ours.row, weights, strict=True):
        for t, weight in entries:
            cells[t][1] += mass * weight
        lost += 0.0 if entries else mass
    if theirs.num_tokens == 1:
        cells[theirs.first][0] += theirs.joint
        cells[theirs.first][1] += ours.joint
    else:
        cells.append([theirs.joint, ours.joint])
    unreached = sum(t for t, s in cells if s <= 1e-15)
    cells = [c for c in cells if c[1] > 1e-15] + [[unreached, lost]]
    cells = [c for c in cells if c[1] > 0]  # the teacher on what the student can reach
    whole = sum(t for t, _ in cells)
    return np.array([[t / whole, s] for t, s in cells])


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 1e-15)


def sorted_l1(p, q):
    width = max(len(p), len(q))
    p, q = (sorted([*x, *[0.0] * (width - len(x))], reverse=True) for x in (p, q))
    return float(np.abs(np.array(p) - np.array(q)).sum())


def alone(theirs, ours, pairs):
    """Masses without a partner on both sides; a first token that is the chunk has the chunk."""
    partners = {t for entries in pairs for t, _ in entries}
    if theirs.num_tokens == 1 and ours.num_tokens > 1:
        partners.add(theirs.first)
    return (
        [mass for t, mass in enumerate(theirs.row) if t not in partners],
        [mass for mass, entries in zip(ours.row, pairs, strict=True) if not entries],
    )


def by_hand(toy, method, theirs, ours):
    if isinstance(method, PKl):
        p, q = cells_of(theirs, ours, spread(toy.w)).T
        return kl(q, p) if method.divergence == "reverse" else kl(p, q)
    if isinstance(method, Uld):
        sides = [
            half.row[: half.first]
            + half.row[half.first + 1 :]
            + (
                [half.row[half.first], half.joint]
                if half.num_tokens > 1
                else [half.row[half.first] + half.joint]
            )
            for half in (theirs, ours)
        ]
        return sorted_l1(*sides)
    pairs = partition(toy.w, "strict" if isinstance(method, Gold) else method.common)
    p, q = cells_of(theirs, ours, pairs).T
    left = alone(theirs, ours, pairs)
    if isinstance(method, HKl):
        scale = sum(left[0]) / sum(left[1])
        return kl(p, q) + sorted_l1(left[0], [scale * mass for mass in left[1]])
    middle = method.beta * p + (1 - method.beta) * q
    divergence = method.beta * kl(p, middle) + (1 - method.beta) * kl(q, middle)
    weights = (method.matched_weight, method.unmatched_weight)
    if weights[0] is None:
        weights = (1 - sum(left[0]), sum(left[0]))
    return weights[0] * divergence + weights[1] * sorted_l1(*left)


METHODS = [
    PKl(precision=EXACT),
    PKl(divergence="reverse", precision=EXACT),
    HKl(precision=EXACT),
    HKl(common="strict", precision=EXACT),
    Gold(precision=EXACT),
    Gold(beta=0.2, precision=EXACT),
    Gold(matched_weight=0.5, unmatched_weight=0.7, precision=EXACT),
    Uld(precision=EXACT),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_loss_by_brute_force(toy, method, seed):
    teacher, student = toy.sides(100 + seed)
    chunks = halves(toy, teacher, student)
    expected = sum(by_hand(toy, method, theirs, ours) for theirs, ours in chunks)
    assert toy.total(method, teacher, student).item() == pytest.approx(expected, abs=1e-5)
