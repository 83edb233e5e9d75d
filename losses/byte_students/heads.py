"""Extra outputs that read a student's state and predict all bytes of its next token.

Both give logits over 260 classes, as published: 256 bytes, padding, the end of a token, the end
of the text or turn, and one spare, which ``ConditionedHead`` reads before a token's first byte.
They are called as modules, so that ZeRO-3 can gather their parameters.

Source: BLD, Singh et al. 2026, arXiv:2604.07466, section 3.2; what the four classes beyond the
bytes stand for is our choice.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

NUM_CLASSES = 260
PADDING, TOKEN_END, TURN_END, START = 256, 257, 258, 259
SYMBOL_CLASSES = (*range(256), TURN_END, TOKEN_END)
"""The class of each symbol: bytes, the end, the end of a token."""
MIXER_WIDTH = 256
"""Largest width inside ``ConditionedHead``: about one number for each class."""


class ParallelHead(nn.Module):
    """One linear map for each place in the token; none sees the token's other bytes.

    Args:
        width: of the student's final hidden states.
        num_slots: bytes predicted from each state.
    """

    def __init__(self, width: int, num_slots: int) -> None:
        super().__init__()
        self.num_slots = num_slots
        self.linear = nn.Linear(width, num_slots * NUM_CLASSES)

    def forward(
        self, states: Float[Tensor, "token hidden"], contents: Int64[Tensor, "token slot"]
    ) -> Float[Tensor, "token slot 260"]:
        """Logits in fp32 or finer; ``contents`` is not read."""
        logits: Tensor = self.linear(states.to(self.linear.weight.dtype))
        return _fine(logits).view(len(states), self.num_slots, NUM_CLASSES)


class ConditionedHead(nn.Module):
    """Predicts each byte from the state and the token's bytes before it.

    One layer of causal attention mixes the state with the bytes' embeddings. What the teacher
    says about a byte depends on the bytes before it, which parallel heads cannot see.

    Args:
        width: of the student's final hidden states.
        num_slots: bytes predicted from each state.
    """

    def __init__(self, width: int, num_slots: int) -> None:
        super().__init__()
        inner = min(width, MIXER_WIDTH)
        self.state = nn.Linear(width, inner)
        self.bytes = nn.Embedding(NUM_CLASSES, inner)
        self.places = nn.Embedding(num_slots, inner)
        self.norm = nn.LayerNorm(inner)
        self.attention = nn.Linear(inner, 3 * inner)
        self.mixed = nn.Linear(inner, inner)
        self.last_norm = nn.LayerNorm(inner)
        self.classes = nn.Linear(inner, NUM_CLASSES)

    def forward(
        self, states: Float[Tensor, "token hidden"], contents: Int64[Tensor, "token slot"]
    ) -> Float[Tensor, "token slot 260"]:
        """Logits in fp32 or finer.

        Args:
            states: those that predict the tokens.
            contents: the tokens' bytes, -1 beyond their ends; the logits at a place depend only on
                those before it.
        """
        before = torch.where(contents < 0, PADDING, contents).roll(1, dims=-1)
        before[:, :1] = START
        places = torch.arange(contents.shape[1], device=contents.device)
        state = self.state(states.to(self.state.weight.dtype)).unsqueeze(1)
        inputs = state + self.bytes(before) + self.places(places)
        query, key, value = self.attention(self.norm(inputs)).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return _fine(self.classes(self.last_norm(inputs + self.mixed(seen))))


def symbol_logprobs(
    logits: Float[Tensor, "slot 260"], num_symbols: int
) -> Float[Tensor, "slot symbol"]:
    """Log-probabilities (nats) of the bytes, the end and, if asked for, the end of a token."""
    classes = torch.tensor(SYMBOL_CLASSES[:num_symbols], device=logits.device)
    return torch.log_softmax(logits, dim=-1).index_select(-1, classes)


def _fine(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
