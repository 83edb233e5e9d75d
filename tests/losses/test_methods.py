"""The folder of methods is the registry."""

import pytest
from torch import nn

from losses.alignment.vocabulary import Vocabulary
from losses.base import Method, Pair
from losses.methods import method_class, method_names
from losses.prediction import Head

WORDS = Vocabulary((b" a",))
PAIR = Pair(
    WORDS, WORDS, student_width=2, teacher_width=2, student_head=Head(nn.Linear(2, 1), num_valid=1)
)


def test_names_are_the_files():
    assert {"alm", "kl"} <= set(method_names())


@pytest.mark.parametrize("name", method_names())
def test_every_file_is_a_method_with_default_options(name):
    method = method_class(name)()
    assert isinstance(method, Method)
    assert method.unit in {"bytes", "tokens", "chunks"}
    assert isinstance(method.modules(PAIR), nn.ModuleDict)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match='unknown method "aml"; did you mean "alm"'):
        method_class("aml")
