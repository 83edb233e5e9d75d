"""Ensembles in bytes, on distributions written by hand."""

import math

import numpy as np
import pytest
import torch

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.ensembles import Said
from losses.ensembles.bytes import ByteEnsemble
from losses.methods.bld import Bld
from losses.signals import ByteDistributions, TokenLikelihoods

TOKENS, SCORED = Tokens(np.array([0, 1]), np.array([-1, 9])), np.array([False, True])
STUDENT = Vocabulary((b"a", b"b"))
both = pytest.mark.parametrize("mean", ["arithmetic", "geometric"])


def signal(positions: list[int], seed: int = 0) -> ByteDistributions:
    noise = torch.randn(len(positions), 257, generator=torch.Generator().manual_seed(seed))
    logprobs = torch.log_softmax(4 * noise, dim=-1)
    return ByteDistributions(
        np.array(positions, dtype=np.int32), logprobs.numpy().astype(np.float16)
    )


def mix(mean, *said: tuple[float, ByteDistributions]) -> ByteDistributions:
    members = [Said(place, weight, one) for place, (weight, one) in enumerate(said)]
    found = ByteEnsemble(Bld(), mean).combined(TOKENS, SCORED, members, STUDENT)
    assert isinstance(found, ByteDistributions)
    return found


def row(one: ByteDistributions, position: int) -> np.ndarray:
    (place,) = np.flatnonzero(one.positions == position)
    return one.logprobs[place].astype(np.float64)


@both
def test_every_position_against_loops(mean):
    first, second = signal([1, 2, 5], seed=1), signal([2, 3, 5], seed=2)
    found = mix(mean, (1.0, first), (3.0, second))
    assert found.positions.tolist() == [1, 2, 3, 5]
    assert found.positions.dtype == np.int32
    assert found.logprobs.dtype == np.float16
    np.testing.assert_array_equal(row(found, 1), row(first, 1))  # the other one leaves its weight
    np.testing.assert_array_equal(row(found, 3), row(second, 3))
    for position in (2, 5):
        a, b = np.exp(row(first, position)), np.exp(row(second, position))
        mixed = (a + 3 * b) / 4 if mean == "arithmetic" else a**0.25 * b**0.75
        mixed = mixed if mean == "arithmetic" else mixed / mixed.sum()
        np.testing.assert_allclose(row(found, position), np.log(mixed), atol=0.02)


@both
def test_equal_members_are_one(mean):
    one = signal([0, 4, 7])
    found = mix(mean, (1.0, one), (2.0, one))
    np.testing.assert_array_equal(found.positions, one.positions)
    np.testing.assert_allclose(found.logprobs, one.logprobs, atol=0.01, rtol=2e-3)


@both
def test_order_does_not_matter(mean):
    first, second = signal([1, 2], seed=1), signal([2, 3], seed=2)
    one, other = mix(mean, (1.0, first), (3.0, second)), mix(mean, (3.0, second), (1.0, first))
    np.testing.assert_array_equal(one.logprobs, other.logprobs)


def test_the_means_differ():
    said = (1.0, signal([1], seed=1)), (1.0, signal([1], seed=2))
    gap = mix("arithmetic", *said).logprobs - mix("geometric", *said).logprobs
    assert np.abs(gap).max() > 1


def test_a_byte_that_one_member_rules_out():
    first, second = signal([1], seed=1), signal([1], seed=2)
    first.logprobs[0, 65] = -math.inf
    assert np.isfinite(mix("arithmetic", (1.0, first), (1.0, second)).logprobs[0, 65])
    assert mix("geometric", (1.0, first), (1.0, second)).logprobs[0, 65] == -math.inf


def test_members_that_say_nothing():
    assert len(mix("arithmetic", (1.0, signal([])), (1.0, signal([]))).positions) == 0


def test_another_signal_is_refused():
    ends, nan = np.array([1], dtype=np.int32), np.full(1, np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="reads ByteDistributions"):
        mix("arithmetic", (1.0, TokenLikelihoods(ends, nan, nan)))


def test_the_method_is_the_members_own():
    method = Bld(head="parallel")
    assert ByteEnsemble(method, "arithmetic").method is method


def test_ends_of_tokens_are_not_shared():
    with pytest.raises(ValueError, match="where each teacher's own tokens end"):
        ByteEnsemble(Bld(converter="eot"), "arithmetic")
