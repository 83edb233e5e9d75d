"""The folder of methods is the registry."""

import pytest

from losses.alignment.vocabulary import Vocabulary
from losses.base import Method, Pair
from losses.methods import method_class, method_names

PAIR = Pair(Vocabulary((b" a",)), Vocabulary((b" a",)))


def test_names_are_the_files():
    assert {"alm", "kl"} <= set(method_names())


@pytest.mark.parametrize("name", method_names())
def test_every_file_is_a_method_with_default_options(name):
    method = method_class(name)()
    assert isinstance(method, Method)
    assert method.unit in {"tokens", "chunks"}
    assert len(method.modules(PAIR)) == 0


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match='unknown method "aml"; did you mean "alm"'):
        method_class("aml")
