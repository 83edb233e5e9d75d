"""The losses of one step: cross-entropy, and likelihood matching with the model as it was."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from losses.base import Pair
from losses.cross_entropy import cross_entropy
from losses.document import Document
from losses.prediction import Prediction
from losses.signals import Signal
from orchestrator.config.method import MethodConfig
from orchestrator.hypernetwork.frozen import FrozenModel
from teachers.teacher import Teacher

CE = "ce"


class Objective:
    """Losses in nats: cross-entropy first, then each method's.

    The teacher is the same model with its own tokenizer. What it says about a document does not
    depend on the sampled vocabulary, so it is asked once for each document.

    Args:
        frozen: the model.
        ce_weight: factor of cross-entropy.
        methods: further losses.
    """

    def __init__(
        self, frozen: FrozenModel, ce_weight: float, methods: Sequence[MethodConfig]
    ) -> None:
        self.methods = tuple(methods)
        self.names = (CE, *(entry.name for entry in methods))
        self.weights = torch.tensor([ce_weight, *(entry.weight for entry in methods)])
        self._vocabulary = frozen.own.tokenizer.vocabulary
        self._teacher = Teacher(frozen.own, [entry.method for entry in methods])
        self._signals: dict[str, tuple[Signal, ...]] = {}

    def ask(self, documents: Sequence[Document]) -> None:
        """Let the teacher read those of the documents that are new to it."""
        if not self.methods:
            return
        new = {d.digest: d for d in documents if d.digest not in self._signals}
        self._signals |= zip(new, self._teacher.signals(list(new.values())), strict=True)

    def losses(self, prediction: Prediction, document: Document) -> Float[Tensor, "loss"]:
        """Each loss of a document that the teacher read, summed over it, without its weight."""
        found = [cross_entropy(prediction).total]
        pair = Pair(prediction.vocabulary, self._vocabulary)
        signals = self._signals[document.digest] if self.methods else ()
        for entry, signal in zip(self.methods, signals, strict=True):
            found.append(entry.method.loss(prediction, signal, pair, nn.ModuleDict()).total)
        return torch.stack(found)
