"""A teacher's head on its way to the student."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped

from losses.prediction import Head
from losses.signals import unpack


@dataclass(frozen=True)
class HeadWeights:
    """A teacher's head as arrays, sent to the student once."""

    weight: Shaped[np.ndarray, "vocab hidden"]
    bias: Shaped[np.ndarray, "vocab"] | None
    num_valid: int
    scale: float
    softcap: float | None

    def head(self, device: torch.device) -> Head:
        """The head rebuilt, frozen."""
        weight = unpack(self.weight)
        linear = torch.nn.Linear(
            weight.shape[1], weight.shape[0], bias=self.bias is not None, device="meta"
        )
        linear.weight = torch.nn.Parameter(weight.to(device), requires_grad=False)
        if self.bias is not None:
            linear.bias = torch.nn.Parameter(unpack(self.bias).to(device), requires_grad=False)
        return Head(linear, self.num_valid, self.scale, self.softcap)
