"""What a method says that it reads of a teacher is what it reads."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from losses.document import text_document
from losses.methods import method_class, method_names
from losses.methods.alm import Alm
from losses.methods.bld import Bld
from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.mined import Mined
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld
from losses.needs import SERVES, Need
from losses.signals import HiddenStates, TopProbabilities

BARE = {"debias": False, "merge_threshold": None}
METHODS = [
    *(method_class(name)() for name in method_names() if name != "bld"),
    Bld(converter="one_path"),
    Alm(**BARE),
    Alm(debias=False),
    *(kind(k=2, temperature=2.0) for kind in (Mined, HKl, PKl)),
    *(kind(k=2, teacher_temperature=2.0) for kind in (Uld, Gold)),
    *(kind(k=2) for kind in (Mined, HKl, PKl, Uld, Gold)),
]
IDS = (0, 2, 4, 3, 2)
UNLISTED = (10, 11)
"""Two tokens that no row finds likely."""


def prediction(predict, shift: float):
    """Rows whose unlisted tokens share the same mass otherwise."""
    size = 12
    likely = torch.tensor([3.0, 2.5, 4.0, 2.0, 3.5, 1.0, 0.5, 1.5, 0.0, -0.5]).double()
    unlisted = torch.tensor([0.02 + shift, 0.04 - shift]).double().log()
    rows = torch.stack([torch.cat([likely.roll(i), unlisted]) for i in range(len(IDS))])
    words = [f" w{i}" if i % 2 == 0 else f"w{i}" for i in range(size)]
    ends = np.cumsum([0, *(len(words[i]) for i in IDS[1:])])
    ends[0] = -1
    text = "".join(words[i] for i in IDS[1:])
    return predict(rows, ends, ids=IDS), text_document("d", text)


def arrays(signal):
    values = (getattr(signal, field.name) for field in fields(signal))
    return [value for value in values if isinstance(value, np.ndarray)]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_what_is_not_listed_matters_only_to_those_that_read_whole_rows(predict, method):
    if isinstance(method.signal(*prediction(predict, 0.0)), HiddenStates):
        assert Need.HIDDEN_STATES in method.needs
        return
    found = [arrays(method.signal(*prediction(predict, shift))) for shift in (0.0, 0.015)]
    same = all(np.allclose(a, b, atol=1e-6, equal_nan=True) for a, b in zip(*found, strict=True))
    assert same is not (Need.DISTRIBUTIONS in method.needs or _lists_all(method))


def _lists_all(method) -> bool:
    """True if so many tokens are listed that none is left out of these few."""
    return getattr(method, "k", 0) > len(UNLISTED) + 10 and Need.TOP_K in method.needs


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_needs_are_those_of_the_signal(predict, method):
    signal = method.signal(*prediction(predict, 0.0))
    needs = method.needs
    assert (Need.HIDDEN_STATES in needs) is isinstance(signal, HiddenStates)
    assert (Need.TOP_K in needs) is isinstance(signal, TopProbabilities)
    assert needs >= method.reads
    if hasattr(signal, "logprob"):
        assert Need.LIKELIHOODS in needs


def test_continuations():
    assert Need.CONTINUATIONS in Bld().needs
    assert Need.CONTINUATIONS not in Bld(converter="one_path").needs


def test_a_model_that_runs_here_serves_every_method():
    for name in method_names():
        needs = method_class(name)().needs
        assert needs
        assert needs <= SERVES["hf"] == SERVES["self"]
