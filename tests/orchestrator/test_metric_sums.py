"""Methods' own metrics, summed over a step."""

import pytest
import torch

from losses.base import LossTerm
from losses.methods.bld import Bld
from losses.methods.cdm import Cdm
from losses.methods.kl import Kl
from orchestrator.student.metric_sums import MetricSums


def loss(**metrics: float) -> LossTerm:
    found = {name: torch.tensor(value) for name, value in metrics.items()}
    return LossTerm(torch.tensor(0.0), 1, found)


def test_by_hand():
    sums = MetricSums([("a/cdm", Cdm()), ("a/kl", Kl()), ("b/bld", Bld())])
    assert sums.names == ("a/cdm/positions", "a/cdm/lost", "b/bld/lost")
    assert sums.places == [1, 1, 3]
    sums.add("a/cdm", loss(positions=4.0, lost=1.0), 1.0)
    sums.add("a/kl", loss(), 1.0)
    sums.add("a/cdm", loss(positions=6.0, lost=0.0), 0.5)
    found = sums.take()
    assert found.tolist() == [7.0, 1.0, 0.0]  # no document went to b
    factors = [1.0, 0.5, 1.0, 0.0]
    assert sums.named(found.tolist(), factors) == dict(zip(sums.names, [14, 2, 0], strict=True))
    assert sums.take().tolist() == [0.0, 0.0, 0.0]


def test_what_is_not_declared_is_refused():
    sums = MetricSums([("a/kl", Kl())])
    sums.add("a/kl", loss(surprise=1.0), 1.0)
    with pytest.raises(ValueError, match=r"a/kl/surprise was counted but is not declared"):
        sums.take()
