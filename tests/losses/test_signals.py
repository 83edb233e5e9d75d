"""Tensors on the wire."""

import numpy as np
import pytest
import torch

from losses.signals import HiddenStates, TokenLikelihoods, expect, pack, unpack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_pack_and_unpack_keep_bits(dtype):
    tensor = torch.tensor([[1.5, -3.0], [0.1, 7.0]]).to(dtype).T  # not contiguous
    packed = pack(tensor)
    packed.flags.writeable = False  # as Ray delivers it
    back = unpack(packed)
    assert back.dtype == dtype
    assert torch.equal(back, tensor)
    back += 1  # a copy: no warning, and the original stays
    assert torch.equal(unpack(packed), tensor)


def test_bytes_on_the_wire():
    ends = np.zeros(3, dtype=np.int32)
    floats = np.zeros(3, dtype=np.float32)
    assert TokenLikelihoods(ends, floats, floats).num_bytes == 36
    states = HiddenStates(ends, ends[:2], np.zeros((2, 5), dtype=np.int16))
    assert states.num_bytes == 12 + 8 + 20
    assert expect(states, HiddenStates) is states
    with pytest.raises(ValueError, match="got a HiddenStates signal but reads TokenLikelihoods"):
        expect(states, TokenLikelihoods)
