"""SeDi: the teacher's likely tokens, re-encoded, as pseudo-labels in the student's vocabulary.

The k likeliest continuations of each common group of tokens are written in the student's tokens.
They and the student's own logits, which a trained adapter scales, make the target of a KL. The
adapter learns to make the target as unsure as the teacher.

By default scores do not depend on the teacher's offset, candidates with the same token add up,
later tokens count only behind what the student wrote, ends are paired by role, the student's own
logits fill only what the candidates leave, and the target is a constant. ``published`` is the
paper's form.

Source: SeDi, AAAI 2026 (article 40637). Its code is not public: where the paper is silent this is
our reading, see docs/methods.md.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Bool
from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.chunk_distributions.top_tokens import Precision
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.reencoding.adapter import EntropyAdapter
from losses.reencoding.candidates import Window
from losses.reencoding.labelling import Labelling
from losses.reencoding.objective import pseudo_label_sums
from losses.reencoding.pseudo_labels import Own, PseudoLabels
from losses.reencoding.published import published_sums
from losses.reencoding.teacher_rows import TopTokensWithEntropy, top_tokens_with_entropy
from losses.signals import Signal, expect


@dataclass(frozen=True, config=OPTIONS)
class Sedi(Method):
    """KL to pseudo-labels plus the squared difference of entropies.

    Args:
        k: continuations of each group; 6k + 24 bytes a token.
        window: which teacher rows give them. ``chain``, all rows of the group, each with the
            probability that the group gets there; ``last``, as published, the row of its last
            token alone, as if the tokens before it were certain, which tells the label. ``chain``
            unless set or ``published``.
        own: where the student's own logits, scaled, stand in the pseudo-label. ``rest``, among
            the tokens of no candidate alone, which share what the teacher's candidates leave;
            ``added``, as published, everywhere, where they count twice: each step makes the
            student surer. ``rest`` unless set or ``published``.
        entropy_weight: factor of the squared difference of entropies.
        adapter_learning_rate: peak learning rate of the adapter.
        published: the paper's form: window ``last``, own ``added``, raw logits as scores, of two
            candidates with the same token the less likely one, later tokens behind any text, no
            special tokens, rows without a candidate, gradients through the target.
        precision: of the listed log-probabilities on the wire.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "tokens"
    bytes_per_token: ClassVar[str] = "6k + 24: 624 at k = 100"
    metric_names: ClassVar[tuple[str, ...]] = ("kl", "entropy", "left_out")
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS, Need.TOP_K, Need.DISTRIBUTIONS})

    k: PositiveInt = 100
    window: Window | None = None
    own: Own | None = None
    entropy_weight: PositiveFloat = 1.0
    adapter_learning_rate: PositiveFloat = 0.001
    published: bool = False
    precision: Precision = "float16"

    @model_validator(mode="after")
    def _every_option_counts(self) -> "Sedi":
        if self.published and self.window is not None:
            raise ValueError(
                'option "window" has no effect with published, which reads the last row of a '
                "group; leave it out"
            )
        if self.published and self.own is not None:
            raise ValueError(
                'option "own" has no effect with published, which adds the student\'s logits to '
                "the scores; leave it out"
            )
        return self

    @property
    def trains_modules(self) -> bool:
        return True

    @property
    def modules_learning_rate(self) -> float:
        return self.adapter_learning_rate

    def signal(self, teacher: Prediction, document: Document) -> TopTokensWithEntropy:
        return top_tokens_with_entropy(
            teacher, self.k, precision=self.precision, levels=self.published
        )

    def ahead(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> PseudoLabels:
        window: Window = "last" if self.published else self.window or "chain"
        own: Own = "added" if self.published else self.own or "rest"
        labelling = Labelling(self.k, window, own, self.published)
        return labelling.labels(
            tokens, scored, expect(signal, TopTokensWithEntropy), pair.reencoder
        )

    def modules(self, pair: Pair) -> nn.ModuleDict:
        return nn.ModuleDict({"adapter": EntropyAdapter(len(pair.student))})

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        labels = expect(signal, PseudoLabels)
        scale = modules["adapter"]()
        sums = (published_sums if self.published else pseudo_label_sums)(student, labels, scale)
        kl, entropy = sums.detach().unbind()
        return LossTerm(
            total=(sums * sums.new_tensor([1.0, self.entropy_weight])).sum(),
            units=len(labels.positions),
            metrics={"kl": kl, "entropy": entropy, "left_out": kl.new_tensor(labels.num_left_out)},
        )

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return len(expect(signal, PseudoLabels).positions)
