"""The end of a turn is matched where one model has a token of its own for it."""

import numpy as np
import pytest
import torch

from losses.alignment.vocabulary import Vocabulary
from losses.methods.cdm import Cdm
from losses.methods.mined import Mined

BOTH = Vocabulary((None, None, b" cats", b" run"), {0: "end", 1: "end_of_turn"})
JOINT = Vocabulary((b" cats", None, b" run"), {1: "end_of_turn"})
IDS = {id(BOTH): (2, 3, 1), id(JOINT): (0, 2, 1)}
""" cats| run|end of the turn"""


@pytest.mark.parametrize(("teacher", "student"), [(BOTH, JOINT), (JOINT, BOTH)])
@pytest.mark.parametrize("method", [Mined(k=3), Cdm(k=3)], ids=repr)
def test_its_row_is_taught(toy, noise, teacher, student, method):
    rows = torch.zeros(3, len(teacher), dtype=torch.float64)
    rows[2, IDS[id(teacher)][2]] = 5.0  # the teacher expects the end, the student nothing
    own = torch.zeros(3, len(student), dtype=torch.float64, requires_grad=True)
    sides = [toy.side_of(r, IDS[id(v)], v) for r, v in ((rows, teacher), (own, student))]
    toy.total(method, *sides, toy.pair_of(student, teacher)).backward()
    expected = np.zeros(len(student), dtype=bool)
    expected[IDS[id(student)][2]] = True
    assert ((own.grad[2] < -1e-3).numpy() == expected).all()
