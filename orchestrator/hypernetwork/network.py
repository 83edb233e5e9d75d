"""The residual hypernetwork: from the rows of a token's pieces to the token's own rows.

Rows are stacked, ``[.., stack, hidden]``: the input row, then the output row where the model does
not tie them. The last linear map starts at zero, so that an untrained network gives its residual
bit by bit: the first piece's rows, or the mean over the pieces.

Source: Minixhofer et al. 2025, arXiv:2503.20083, appendix D; Minixhofer et al. 2024,
arXiv:2405.07883, section 3.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from orchestrator.hypernetwork.config import NetworkConfig

NUM_BYTES = 256
INITIAL_STD = 0.02


class Hypernetwork(nn.Module):
    """Layers over the pieces' rows, read off at the first piece.

    Args:
        options: the sizes.
        num_stacked: 1 where input and output rows are tied, else 2.
        hidden: width of one row.

    Raises:
        ValueError: the heads do not divide the width of the layers.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, options: NetworkConfig, num_stacked: int, hidden: int) -> None:
        super().__init__()
        self.options = options
        self.num_stacked, self.hidden = num_stacked, hidden
        stacked = num_stacked * hidden
        width = options.width or stacked
        if options.attention and width % options.num_heads:
            raise ValueError(
                f"network.num_heads: {options.num_heads} heads do not divide the width {width}; "
                "choose a divisor, or set network.width"
            )
        self.reads = nn.Linear(stacked, width) if options.width else nn.Identity()
        num_positions = options.max_pieces if options.attention else 1
        self.positions = nn.Parameter(torch.zeros(num_positions, width))
        heads = options.num_heads if options.attention else None
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(options.num_layers))
        self.writes = nn.Linear(width, stacked)
        self.byte_rows = nn.Parameter(torch.zeros(NUM_BYTES, num_stacked, hidden))
        """Rows of single bytes, for what the model's own tokenizer cannot spell."""
        self.register_buffer("scale", torch.ones(num_stacked, hidden))
        self.register_buffer("shift", torch.zeros(num_stacked, hidden))

    def start(self, rows: Float[Tensor, "vocab stack hidden"], seed: int) -> None:
        """Draw the parameters, and fit the scale of the input to the model's rows.

        Each of a row's numbers is brought to mean 0 and standard deviation sqrt(2 / hidden) over
        the vocabulary. Rows of bytes are drawn like the model's rows.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                _draw(name, parameter, generator)
            rows = rows.float().cpu()
            mean, std = rows.mean(0), rows.std(0, correction=0)
            self.scale.copy_(math.sqrt(2 / self.hidden) / (std + 1e-8))
            self.shift.copy_(-mean * self.scale)
            drawn = torch.randn(self.byte_rows.shape, generator=generator)
            self.byte_rows.copy_(drawn * std + mean)

    def forward(
        self,
        pieces: Float[Tensor, "token piece stack hidden"],
        mask: Bool[Tensor, "token piece"],
    ) -> Float[Tensor, "token stack hidden"]:
        """The rows of each token.

        Args:
            pieces: rows of each token's pieces, in order; what stands in padding is not read.
            mask: true for a piece; the first one of each token is.
        """
        residual = self._residual(pieces, mask)
        if self.options.attention:
            pieces = pieces[:, : self.options.max_pieces]
            mask = mask[:, : self.options.max_pieces]
        else:
            pieces, mask = residual[:, None], mask[:, :1]
        states = self.reads((pieces * self.scale + self.shift).flatten(2))
        states = states + self.positions[: states.shape[1]]
        for layer in self.layers[:-1]:
            states = layer(states, mask, states.shape[1])
        first = self.layers[-1](states, mask, 1)[:, 0]
        change = self.writes(first).view_as(residual) / self.scale
        rows: Tensor = residual + self.options.alpha / math.sqrt(self.hidden) * change
        return rows

    def _residual(
        self,
        pieces: Float[Tensor, "token piece stack hidden"],
        mask: Bool[Tensor, "token piece"],
    ) -> Float[Tensor, "token stack hidden"]:
        if self.options.residual == "first":
            return pieces[:, 0]
        real = mask[..., None, None]
        return torch.where(real, pieces, 0).sum(1) / real.sum(1)


class Layer(nn.Module):
    """One transformer layer, normalised after each part.

    Args:
        width: of states.
        num_heads: of attention; None leaves attention out.
    """

    def __init__(self, width: int, num_heads: int | None) -> None:
        super().__init__()
        self.attention = (
            None if num_heads is None else nn.MultiheadAttention(width, num_heads, batch_first=True)
        )
        self.attention_norm = nn.Identity() if num_heads is None else _norm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )
        self.mlp_norm = _norm(width)

    def forward(
        self,
        states: Float[Tensor, "token piece width"],
        mask: Bool[Tensor, "token piece"],
        num_rows: int,
    ) -> Float[Tensor, "token row width"]:
        """The first ``num_rows`` states after the layer; they read all pieces."""
        rows = states[:, :num_rows]
        if self.attention is not None:
            read, _ = self.attention(
                rows, states, states, key_padding_mask=~mask, need_weights=False
            )
            rows = self.attention_norm(rows + read)
        found: Tensor = self.mlp_norm(rows + self.mlp(rows))
        return found


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-12)


def _draw(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """Matrices normal but for the last one, which is zero; biases zero; factors of norms one."""
    if name.startswith("writes.") or name.endswith("bias"):
        parameter.zero_()
    elif parameter.ndim == 1:
        parameter.fill_(1.0)
    elif name == "positions":
        parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    else:
        parameter.normal_(std=INITIAL_STD, generator=generator)
