"""The mean of distributions: values by hand, and the laws of a mean."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.mixture.targets import combine_logprobs

MEANS = ("arithmetic", "geometric")
both = pytest.mark.parametrize("mean", MEANS)


def table(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def draw(members: int, rows: int, outcomes: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(members, rows, outcomes, generator=generator, dtype=torch.float64)
    return torch.log_softmax(3 * logits, dim=-1)


def everywhere(stack: torch.Tensor) -> torch.Tensor:
    return torch.ones(stack.shape[:2], dtype=torch.bool)


def weights(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    """Weights 1 and 3: a quarter and three quarters."""
    stack = torch.stack([table([0.6, 0.4]), table([0.2, 0.8])])
    here = everywhere(stack)
    found = combine_logprobs(stack, weights(1, 3), here, "arithmetic").exp()
    assert found[0].tolist() == pytest.approx([0.3, 0.7])
    heads, tails = 0.6**0.25 * 0.2**0.75, 0.4**0.25 * 0.8**0.75
    found = combine_logprobs(stack, weights(1, 3), here, "geometric").exp()
    assert found[0].tolist() == pytest.approx([heads / (heads + tails), tails / (heads + tails)])


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alone_the_smallest_weight_is_all_of_it(mean, dtype):
    """Soft shares may be next to nothing; single precision would round them to nothing."""
    stack = draw(2, 2, 5, seed=0).to(dtype)
    present = torch.tensor([[True, True], [False, True]])
    found = combine_logprobs(stack, weights(1e-60, 1), present, mean)
    torch.testing.assert_close(found, torch.stack([stack[0, 0], stack[1, 1]]))
    assert found.dtype == dtype


@both
def test_equal_members_are_one(mean):
    stack = draw(1, 4, 5, seed=0).expand(3, -1, -1)
    found = combine_logprobs(stack, weights(1, 2, 0.5), everywhere(stack), mean)
    torch.testing.assert_close(found, stack[0])


@both
@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10))
def test_order_and_scale_of_weights_do_not_matter(mean, seed, scale):
    stack, own = draw(3, 4, 5, seed), weights(1, 2, 0.5)
    present = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) < 0.7
    present[seed % 3] = True
    expected = combine_logprobs(stack, own, present, mean)
    order = torch.tensor([2, 0, 1])
    found = combine_logprobs(stack[order], own[order] * scale, present[order], mean)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(expected.exp().sum(-1), weights(1, 1, 1, 1))


@both
def test_an_absent_member_leaves_its_weight(mean):
    """And what stands in its place is not read."""
    stack = draw(3, 2, 4, seed=1)
    stack[1, 0] = math.nan
    present = everywhere(stack)
    present[1, 0] = False
    found = combine_logprobs(stack, weights(1, 5, 3), present, mean)
    others = combine_logprobs(stack[[0, 2]], weights(1, 3), everywhere(stack[:2]), mean)
    all_three = combine_logprobs(stack[:, 1:], weights(1, 5, 3), everywhere(stack[:, 1:]), mean)
    torch.testing.assert_close(found[0], others[0])
    torch.testing.assert_close(found[1], all_three[0])


@both
def test_weight_zero_is_absence(mean):
    stack = draw(2, 3, 4, seed=2)
    stack[1, 0, 2] = -math.inf
    found = combine_logprobs(stack, weights(1, 0), everywhere(stack), mean)
    torch.testing.assert_close(found, stack[0])
    nearly = combine_logprobs(stack[:, 1:], weights(1, 1e-9), everywhere(stack[:, 1:]), mean)
    torch.testing.assert_close(nearly, stack[0, 1:], atol=1e-6, rtol=0)


def test_what_one_member_rules_out():
    """A mixture still allows it, a product does not."""
    stack = torch.stack([table([0.5, 0.5, 0.0]), table([0.0, 0.5, 0.5])])
    here = everywhere(stack)
    mixed = combine_logprobs(stack, weights(1, 1), here, "arithmetic").exp()
    assert mixed[0].tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert combine_logprobs(stack, weights(1, 1), here, "geometric").exp()[0].tolist() == [0, 1, 0]


def test_single_precision_in_and_out():
    stack = draw(2, 1, 3, seed=3).float()
    found = combine_logprobs(stack, weights(1, 1), everywhere(stack), "arithmetic")
    assert found.dtype == torch.float32


def test_no_rows():
    stack = torch.zeros(2, 0, 3)
    for mean in MEANS:
        assert combine_logprobs(stack, weights(1, 1), everywhere(stack), mean).shape == (0, 3)


class TestRefused:
    @both
    def test_a_row_without_a_member(self, mean):
        stack, present = draw(2, 2, 3, seed=4), torch.tensor([[True, False], [True, False]])
        with pytest.raises(ValueError, match="row 1 has no member of positive weight"):
            combine_logprobs(stack, weights(1, 1), present, mean)

    def test_a_negative_weight(self):
        stack = draw(2, 1, 3, seed=5)
        with pytest.raises(ValueError, match="expected none below 0"):
            combine_logprobs(stack, weights(1, -0.5), everywhere(stack), "arithmetic")

    def test_a_product_of_nothing(self):
        stack = torch.stack([table([1.0, 0.0]), table([0.0, 1.0])])
        with pytest.raises(ValueError, match="row 0: no outcome is possible for all members"):
            combine_logprobs(stack, weights(1, 1), everywhere(stack), "geometric")
