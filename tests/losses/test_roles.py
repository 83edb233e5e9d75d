"""Ends of texts and of turns are paired by role, wherever two vocabularies meet.

The three shapes: a chat model with both tokens (Gemma), one whose end is also that of a turn
(SmolLM2, Llama 3), and a model without chats (GPT-2).
"""

import numpy as np
import pytest
import torch

from losses.alignment.coverage import TokenClass, measure_coverage
from losses.alignment.projection import ProjectionOptions
from losses.alignment.projection_build import build_projection
from losses.alignment.roles import role_partners, second_ends
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.chunk_distributions.matched import matched_of
from losses.dual_space.shared_tokens import shared_tokens
from losses.methods.alm import Alm
from losses.methods.bld import Bld
from losses.methods.kl import Kl
from losses.reencoding.reencoder import ALONE, Reencoder
from losses.token_matching.dynamic_mapping import exact_partners
from losses.token_matching.nearest_tokens import nearest_students
from losses.token_matching.spelling import spellings

WORDS = (b"a", b" b")
PAD, OTHER = 2, 3


def vocabulary(**ends: int) -> Vocabulary:
    """Two words, a pad and another special token, and these."""
    size = 4 + len(ends)
    roles = {PAD: "pad", OTHER: "other"} | {index: role for role, index in ends.items()}
    return Vocabulary((*WORDS, *(None,) * (size - 2)), roles)


BOTH = vocabulary(end=4, end_of_turn=5)
JOINT = vocabulary(end_of_turn=4)
BASE = vocabulary(end=4)
SHAPES = {"both": BOTH, "joint": JOINT, "base": BASE}
EXPECTED = {
    ("both", "both"): {4: 4, 5: 5},
    ("both", "joint"): {4: 4, 5: 4},
    ("both", "base"): {4: 4, 5: 4},
    ("joint", "both"): {4: 5},
    ("joint", "joint"): {4: 4},
    ("joint", "base"): {4: 4},
    ("base", "both"): {4: 4},
    ("base", "joint"): {4: 4},
    ("base", "base"): {4: 4},
}
FIRST = {("both", "joint"): 5, ("both", "base"): 4}
"""Which of two ends with one partner has its role."""


@pytest.fixture(params=EXPECTED, ids="-".join)
def shapes(request):
    """Source, target, the expected partners of the source's ends, and the one of the same role."""
    source, target = (SHAPES[name] for name in request.param)
    return source, target, EXPECTED[request.param], FIRST.get(request.param)


def projection(source, target):
    return build_projection(
        source, target, lambda texts: [() for _ in texts], ProjectionOptions(top_k=2)
    )


def test_partners(shapes):
    source, target, expected, first = shapes
    assert role_partners(source, target) == {PAD: PAD} | expected
    assert second_ends(source, target) == ({4, 5} - {first} if first else set())


def test_w_has_a_row_for_every_end(shapes):
    source, target, expected, first = shapes
    w = projection(source, target)
    for index, partner in expected.items():
        assert w.row(index) == {partner: 1.0}
        assert w.exact[index] == (first in (None, index))
    assert w.row(OTHER) == {}


def test_partition_losses_pair_the_chat_event(shapes):
    source, target, expected, first = shapes
    w = projection(source, target)
    for common in ("top1", "relaxed", "strict"):
        matched = matched_of(w, torch.device("cpu"), common)
        pairs = dict(zip(matched.teachers.tolist(), matched.students.tolist(), strict=True))
        for index, partner in expected.items():
            assert pairs[partner] == (first or index)


def test_cdm_and_mined_pair_them(shapes):
    student, teacher, expected, first = shapes
    w = projection(student, teacher)
    exact = exact_partners(w)
    near = nearest_students(teacher, student, w, 0.3)
    for index, partner in expected.items():
        ours = first or index
        assert exact.to_student[partner] == near.of(np.array([partner]))[0] == ours
        assert exact.to_teacher[ours] == partner
        # realised ends are spelled alike whichever of the two each model writes
        assert spellings(student)[index] == spellings(teacher)[partner]
    assert spellings(student)[PAD] != spellings(student)[4]


def test_dskd_and_sedi_pair_them(shapes):
    teacher, student, expected, _ = shapes
    found = shared_tokens(student, teacher)
    coder = Reencoder(student, teacher, lambda texts: [[] for _ in texts])
    for index, partner in expected.items():
        assert found.student_of[index] == partner
        assert coder.key(ALONE, index) == (b"", partner)
    assert found.student_of[PAD] == -1


def test_coverage_counts_them(shapes):
    source, target, expected, _ = shapes
    roles = measure_coverage(target, source, projection(target, source)).classes[TokenClass.ROLE]
    assert roles.teacher_exact == 1 + len(expected)  # and the pad


def test_a_template_makes_no_other_vocabulary():
    """The same ids, of which a template says which closes a turn."""
    assert BASE.fingerprint != JOINT.fingerprint
    for pair in (Pair(BASE, JOINT), Pair(JOINT, BASE)):
        assert pair.has_one_vocabulary
        Kl().check(pair)
        Bld(converter="eot").check(pair)
    assert not Pair(BASE, BOTH).has_one_vocabulary


def test_other_roles_make_another_vocabulary():
    start = Vocabulary(BASE.token_bytes, BASE.roles | {OTHER: "start"})
    with pytest.raises(ValueError, match="needs one vocabulary"):
        Kl().check(Pair(BASE, start))


def test_the_border_of_an_end_is_the_end_of_a_text():
    method = Alm(border="end")
    for words, expected in ((BOTH, [4]), (JOINT, [4]), (BASE, [4])):
        assert method._border_ids(words).tolist() == expected
