"""Each term's share of the last layer's gradient: does every teacher count?"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from orchestrator.student.layers import layer_list
from orchestrator.student.module import DistillModule
from orchestrator.student.stages import embedding_parameters


class LastLayer:
    """Sums each term's gradient with respect to the last transformer layer over a step.

    The shares are those of the global batch, so they do not depend on how it was split: norms
    are taken only after summing over micro-batches and ranks.

    Args:
        module: the student and its terms.
        factors: what each term's total is multiplied by: weight and normalisation.
    """

    def __init__(self, module: DistillModule, factors: Float[Tensor, "term"]) -> None:
        self._factors = factors
        self._parameters = last_trained(module.model)
        self._sums: list[Tensor] = []

    def add(self, totals: Float[Tensor, "term"]) -> None:
        """Add one micro-batch's totals; the graph is kept for the backward pass."""
        weighted = totals * self._factors.to(totals)
        gradients = [self._gradient(term) for term in weighted.unbind()]
        if self._sums:
            gradients = [a + b for a, b in zip(self._sums, gradients, strict=True)]
        self._sums = gradients

    def norms(self, all_reduce: Callable[[Tensor], Tensor]) -> tuple[float, ...]:
        """Each term's gradient norm."""
        return tuple(float(all_reduce(gradient).norm()) for gradient in self._sums)

    def _gradient(self, term: Float[Tensor, ""]) -> Float[Tensor, "parameter"]:
        gradients = torch.autograd.grad(
            term, self._parameters, retain_graph=True, allow_unused=True
        )
        pairs = zip(gradients, self._parameters, strict=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in pairs]
        return torch.cat([gradient.detach().float().flatten() for gradient in flat])


def last_trained(model: PreTrainedModel) -> list[nn.Parameter]:
    """What is trained of the last transformer layer (adapters under LoRA).

    The embeddings if nothing is: they are what a stage of embeddings alone trains.
    """
    layer = [p for p in layer_list(model)[-1].parameters() if p.requires_grad]
    return layer or [p for p in embedding_parameters(model) if p.requires_grad]


def shares_of(norms: Sequence[float]) -> tuple[float, ...]:
    """Each norm over the sum of the norms (all 0 if nothing moves).

    >>> shares_of([3.0, 1.0])
    (0.75, 0.25)
    """
    total = sum(norms)
    return tuple(norm / total if total else 0.0 for norm in norms)
