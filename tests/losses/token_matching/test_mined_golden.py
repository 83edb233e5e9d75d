"""MinED against DSKD, FuseLLM and tokenkit (tests/golden/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from losses.alignment.projection import Projection
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.methods.mined import Mined
from losses.token_matching.mapped_rows import MappedRows

FOLDER = Path(__file__).parents[2] / "golden"
DSKD = json.loads((FOLDER / "mined" / "dskd_mined_logits.json").read_text())
FUSELLM = json.loads((FOLDER / "mined" / "fusellm_logits.json").read_text())
TOKENKIT = json.loads((FOLDER / "mined" / "mined_loss.json").read_text())
ALM = json.loads((FOLDER / "alm_loss.json").read_text())["shared_inputs"]
LEAST = -1e5


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def words_of(pieces):
    texts = [piece.replace("▁", " ").replace("Ġ", " ").encode() for piece in pieces]
    return Vocabulary(tuple(texts))


def dskd_sides(toy, case):
    """Rows stand after the tokens read last; the student's targets are scored."""
    words = [words_of(DSKD[f"{side}_pieces"]) for side in ("student", "teacher")]
    pair, sides, rows = toy.pair_of(*words), [], []
    for name, vocabulary in (("teacher", pair.teacher), ("student", pair.student)):
        rows.append(double(case[f"{name}_logits"]).requires_grad_(name == "student"))
        read = case[f"{name}_input"]
        # any last token will do for the teacher: nothing is matched with it
        following = case.get(f"{name}_target", [*read[1:], 0])
        sides.append(toy.side_of(rows[-1], following, vocabulary, first=read[0]))
    return pair, rows[1], sides


@pytest.mark.parametrize("case", DSKD["cases"], ids=lambda case: case["name"])
def test_dskd(toy, case):
    pair, rows, sides = dskd_sides(toy, case)
    method = Mined(k=20, match="soft", temperature=2.0, precision="float32", published="dskd")
    term = toy.term(method, *sides, pair)
    assert term.units == len(rows)
    assert term.total.item() == pytest.approx(case["forward_kl_sum_T2"], rel=2e-5)
    target = (double(case["aligned_teacher_logits"]) / 2).log_softmax(-1)
    expected = (target.exp() * (target - (rows / 2).log_softmax(-1))).sum()
    gradients = [torch.autograd.grad(value, rows)[0] for value in (term.total, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", DSKD["cases"], ids=lambda case: case["name"])
def test_rows_of_dskd(toy, case):
    pair, _, (teacher, student) = dskd_sides(toy, case)
    method = Mined(k=20, match="soft", precision="float32", published="dskd")
    scored = student.scored.numpy()
    rows = method.ahead(student.tokens, scored, method.signal(teacher, toy.document), pair)
    assert rows.positions.tolist() == list(range(len(rows.positions)))
    expected = double(case["aligned_teacher_logits"])
    found = torch.full_like(expected, LEAST)
    mass = torch.from_numpy(rows.mass).double()
    found.scatter_reduce_(-1, torch.from_numpy(rows.ids), mass, "amax")
    kept = found > LEAST
    assert torch.equal(kept, (expected > LEAST))
    logs = expected.masked_fill(~kept, -torch.inf).log_softmax(-1)
    ours = found.masked_fill(~kept, -torch.inf).log_softmax(-1)
    torch.testing.assert_close(ours.exp(), logs.exp(), rtol=1e-5, atol=1e-7)


def fusellm_sides(toy):
    """Vocabularies of the pieces that occur, with the ids they have there."""
    base = dict(zip(FUSELLM["base_pieces"], FUSELLM["base_ids"], strict=True))
    base |= {piece: -1 for piece in FUSELLM["piece_mapping"].values()} | base
    for form in FUSELLM["result"].values():
        for pieces, ids in zip(form["pieces"], form["indices"], strict=True):
            base |= dict(zip(pieces, ids, strict=True))
    blending = dict(zip(FUSELLM["teacher_pieces"], FUSELLM["teacher_ids"], strict=True))
    for pieces, ids in zip(
        FUSELLM["teacher_topk_pieces"], FUSELLM["teacher_topk_ids"], strict=True
    ):
        blending |= dict(zip(pieces, ids, strict=True))
    return base, blending


@pytest.mark.parametrize("match", ["hard", "soft"])
def test_rows_of_fusellm(toy, match):
    """Ids are renumbered; which pieces and logits a row gets is compared."""
    base, blending = fusellm_sides(toy)
    pieces = [list(base), list(blending)]
    pair = toy.pair_of(words_of(pieces[0]), words_of(pieces[1]))
    logits = torch.full((len(FUSELLM["teacher_ids"]), len(pieces[1])), -50.0, dtype=torch.float64)
    for row, (ids, values) in enumerate(
        zip(FUSELLM["teacher_topk_pieces"], FUSELLM["teacher_topk_logits"], strict=True)
    ):
        for piece, value in reversed(list(zip(ids, values, strict=True))):
            logits[row, pieces[1].index(piece)] = value
    theirs = [pieces[1].index(piece) for piece in FUSELLM["teacher_pieces"]]
    ours = [pieces[0].index(piece) for piece in FUSELLM["base_pieces"]]
    teacher = toy.side_of(logits, [*theirs[1:], 0], pair.teacher, first=theirs[0])
    own = torch.zeros(len(ours), len(pieces[0]), dtype=torch.float64)
    student = toy.side_of(own, [*ours[1:], 0], pair.student, first=ours[0])
    method = Mined(k=5, match=match, precision="float32", published="fusellm")
    scored = student.scored.numpy()
    rows = method.ahead(student.tokens, scored, method.signal(teacher, toy.document), pair)
    expected = FUSELLM["result"][match]
    for row, (wanted, values) in enumerate(
        zip(expected["pieces"], expected["logits"], strict=True)
    ):
        likely = rows.mass[row] > -20
        kept = (rows.ids[row, likely], rows.mass[row, likely])
        found = {pieces[0][i]: m for i, m in zip(*kept, strict=True)}
        assert set(found) == set(wanted), row
        gaps = [found[piece] - found[wanted[0]] for piece in wanted]
        assert gaps == pytest.approx([value - values[0] for value in values], abs=1e-5)


def tokenkit_rows(sample):
    """By its rule: row p after a pair of single tokens p, and row p - 1 before any other p."""
    coo = ALM["alignments"]["unconstrained"]
    columns = []
    for side in ("student", "teacher"):
        count = sum(ALM[f"attention_mask_{side}"][sample])
        cells = [(p, c) for p, c in coo[f"{side}_coo"][sample] if 0 < p < count - 1]
        columns.append(cells)
    single = [{c: [p for p, d in cells if d == c] for _, c in cells} for cells in columns]
    both = {c for c in single[0] if len(single[0][c]) == len(single[1].get(c, ())) == 1}
    pairs = [(single[0][c][0], single[1][c][0]) for c in sorted(both)]
    others = sorted({p for p, c in columns[0] if c not in both})
    counted = sum(
        len(single[1].get(c, ())) == int(len(single[0].get(c, ())) == 1) for c in range(8)
    )
    return pairs, others, counted


@pytest.mark.parametrize("case", TOKENKIT["cases"], ids=lambda case: str(case["kd_temp"]))
def test_loss_of_tokenkit(toy, case):
    """Its table goes the other way and its rows stand elsewhere: they are made here."""
    table, temperature = TOKENKIT["mined_mapping"], case["kd_temp"]
    logits = ALM["logits"]["normal"]
    total, counts = 0.0, [0, 0, 0]
    for sample in range(2):
        pairs, others, counted = tokenkit_rows(sample)
        theirs = (double(logits["teacher"][sample])[:, table] / temperature).log_softmax(-1)
        size = len(table)
        ids = np.tile(np.arange(size), (len(pairs) + len(others), 1))
        mass = np.full(ids.shape, -np.inf, dtype=np.float32)
        own = ALM["input_ids_student"][sample]
        for row, (_, p) in enumerate(pairs):
            mass[row] = theirs[p].numpy()
        for row, p in enumerate(others, start=len(pairs)):
            mass[row, own[p]] = 0
        positions = np.array([*(p for p, _ in pairs), *(p - 1 for p in others)])
        nothing = np.full(len(ids), -np.inf, dtype=np.float32)
        ends = np.zeros(1, dtype=np.int32)
        rows = MappedRows(ends, nothing[:1], positions, ids, mass, nothing)
        student = toy.side_of(
            double(logits["student"][sample])[:-1], own[1:], words(own), first=own[0]
        )
        method = Mined(temperature=temperature, published="dskd")
        total += method.loss(student, rows, Pair(words(own), words(own)), toy.empty).total.item()
        counts = [a + b for a, b in zip(counts, (len(pairs), len(others), counted), strict=True)]
    assert counts[:2] == [case["one_to_one_chunks"], case["onehot_positions"]]
    assert total / (counts[2] + counts[1]) == pytest.approx(case["loss"], rel=2e-5)


def words(ids):
    return Vocabulary((b"a",) * (max(ids) + 1))


def test_projection_is_needed(toy):
    teacher, _, student = toy.sides()
    assert isinstance(toy.pair.projection, Projection)
    with pytest.raises(ValueError, match=r"pass Pair\.projection"):
        toy.term(Mined(), teacher, student, Pair(toy.pair.student, toy.pair.teacher))
