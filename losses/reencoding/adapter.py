"""The trained scale of the student's logits in the pseudo-label.

Source: SeDi, AAAI 2026 (article 40637), the entropy adapter; one factor a token, the same in all
rows, starting at one, is our reading.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EntropyAdapter(nn.Module):
    """One factor for each token of the student's vocabulary.

    Called as a module, so that ZeRO-3 can gather its parameter.
    """

    def __init__(self, num_ids: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_ids))

    def forward(self) -> Float[Tensor, "vocab"]:
        """The factors, in float32 or finer."""
        return self.scale.to(torch.promote_types(self.scale.dtype, torch.float32))
