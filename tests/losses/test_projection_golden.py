"""W against the published code's projections (tests/golden/README.md).

Rows of special tokens are left out (they are matched by role here, by the likeness of their names
there), and rows of tokens that are not UTF-8 (U+FFFD there).
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from losses.alignment.projection import ProjectionOptions
from losses.alignment.projection_build import (
    build_projection,
    exact_matches,
    retokenize,
    reverse_entries,
    share_weight,
)
from losses.alignment.vocabulary import Family, Vocabulary, bytes_of_piece

GOLDEN = Path(__file__).parents[1] / "golden" / "xtoken"
PAIRS = ["tiny_s__tiny_t", "bl_merge__bl_split"]


def read(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def load(name):
    """A vocabulary and its encoder."""
    tokenizer = Tokenizer.from_file(str(GOLDEN / f"{name}.tokenizer.json"))
    tokenizer.encode_special_tokens = True
    special = tokenizer.get_added_tokens_decoder()
    table = [None] * tokenizer.get_vocab_size()
    for piece, index in tokenizer.get_vocab().items():
        if index not in special:
            table[index] = bytes_of_piece(piece, Family.BYTE_LEVEL)

    def encode(texts):
        rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [row.ids for row in rows]

    return Vocabulary(tuple(table), dict.fromkeys(special, "other")), encode


def texts(vocabulary):
    """Ids of the tokens that are text."""
    return sorted(
        set(range(len(vocabulary))) - {*vocabulary.roles, *vocabulary.partial_ids.tolist()}
    )


def as_bfloat16(row):
    values = torch.tensor(list(row.values()), dtype=torch.float64).to(torch.bfloat16)
    return dict(zip(row, values.tolist(), strict=True))


@pytest.mark.parametrize("variant", ["plain", "nightly", "reverse"])
@pytest.mark.parametrize("pair", PAIRS)
def test_text_rows(pair, variant):
    golden = read(f"projection_{pair}")
    (student, back), (teacher, encode) = load(golden["student"]), load(golden["teacher"])
    options = ProjectionOptions(reverse=variant == "reverse")
    w = build_projection(student, teacher, encode, options, back)
    rows = golden["variants"][variant]["rows"]
    compared = texts(student)
    assert len(compared) == {"tiny_s__tiny_t": 28, "bl_merge__bl_split": 261}[pair]
    for index in compared:
        expected = {int(teacher_id): weight for teacher_id, weight in rows[index].items()}
        assert as_bfloat16(w.row(index)) == expected, student.token_bytes[index]


@pytest.mark.parametrize("pair", PAIRS)
def test_both_passes_before_exact_matches(pair):
    # In these vocabularies the reverse pass only reaches rows that are exact in the end: compare
    # the sums themselves, without exact matches, between tokens that are text.
    golden = read(f"projection_{pair}")
    (student, back), (teacher, encode) = load(golden["student"]), load(golden["teacher"])
    none = np.full(len(student), -1)
    ids = np.array(texts(student))
    forward = share_weight(ids, retokenize(student, ids, teacher, encode, 4))
    reverse = reverse_entries(student, teacher, none, back, 4)
    ours = Counter()
    for entries in (forward, reverse):
        for s, t, weight in zip(*map(np.ndarray.tolist, entries), strict=True):
            ours[s, t] += weight
    rows, columns = set(texts(student)), set(texts(teacher))
    counts = golden["variants"]["reverse"]["counts"]
    theirs = {(s, t): weight for s, t, weight in counts if s in rows and t in columns}
    found = {cell: x for cell, x in ours.items() if cell[0] in rows and cell[1] in columns}
    assert found == pytest.approx(theirs, abs=1e-12)
    assert any(s in rows and x != 2 and s < 400 for (s, _), x in theirs.items())


def test_exact_rows_are_the_published_strict_pairs():
    golden = read("exact_map")
    (student, _), (teacher, encode) = load(golden["student"]), load(golden["teacher"])
    [case] = (
        case
        for case in golden["cases"]
        if case["projection"] == "remapped"
        and case["teacher_vocab_size"] == len(teacher)
        and not case["xtoken_loss"]
    )
    exact = exact_matches(student, teacher, encode)
    assert np.flatnonzero(exact >= 0).tolist() == case["common_student"]
    assert exact[exact >= 0].tolist() == case["common_teacher"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_weights_of_the_pieces(count):
    expected = read("projection_units")["create_weight_distribution"][str(count)]
    _, _, weights = share_weight(np.array([0]), np.arange(count)[None])
    assert weights.tolist() == pytest.approx(expected, abs=1e-15)
