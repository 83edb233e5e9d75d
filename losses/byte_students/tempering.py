"""A model at another temperature: its logits divided before anything is made of its tokens.

Dividing the logarithms of byte probabilities instead would give another distribution.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from losses.prediction import Head, Prediction


@dataclass(frozen=True)
class TemperedHead(Head):
    """A head whose logits are divided by the temperature."""

    temperature: float = 1.0

    def logits(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        return super().logits(hidden) / self.temperature


def tempered(prediction: Prediction, temperature: float) -> Prediction:
    """The prediction at a temperature; runs the head anew unless the temperature is 1."""
    if temperature == 1:
        return prediction
    head = prediction.head
    found = Prediction(
        tokens=prediction.tokens,
        hidden=prediction.hidden,
        head=TemperedHead(head.linear, head.num_valid, head.scale, head.softcap, temperature),
        vocabulary=prediction.vocabulary,
        scored=prediction.scored,
        elements_in_memory=prediction.chunk_size * head.num_valid,
    )
    found.embed, found.continuations = prediction.embed, prediction.continuations
    return found
