"""Whether a server is the model that it should be: asked twice, and compared with its own weights.

A server can be wrong without a fault: other weights behind the right name, a coarse number format,
answers that go to the wrong request. So a few documents are asked in order and from the last to
the first, and, where the run file names the same weights or a sample of what they said, compared
with these.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from losses.told import Told
from teachers.server.prompt import Known, Prompt
from teachers.server.reference import Reference

log = logging.getLogger(__name__)

FEW = 4
"""Prompts that are compared."""

Ask: TypeAlias = Callable[[Sequence[Prompt]], list[Told]]
"""What the server says of some prompts, in their order."""


@dataclass(frozen=True)
class Gap:
    """How far two sides are apart on one document, in nats a token."""

    document: str
    mean: float
    largest: float
    num_tokens: int

    @classmethod
    def of(
        cls, document: str, ours: Float32[np.ndarray, "token"], theirs: Float32[np.ndarray, "token"]
    ) -> "Gap":
        """Over all tokens but the first, of which neither speaks; what is NaN is infinitely far."""
        apart = np.abs(ours[1:].astype(np.float64) - theirs[1:])
        gaps = np.where(np.isnan(apart), np.inf, apart)
        if not len(gaps):
            return cls(document, 0.0, 0.0, 0)
        return cls(document, float(gaps.mean()), float(gaps.max()), len(gaps))


@dataclass(frozen=True)
class Parity:
    """What a server is compared with.

    Args:
        teacher: its name, for messages.
        tolerance: largest mean difference on a document, in nats a token.
        reference: the same weights, or what they said; None compares the server with itself only.
    """

    teacher: str
    tolerance: float
    reference: Reference | None = None

    def check(self, prompts: Sequence[Prompt], ask: Ask) -> None:
        """Compare a few prompts.

        Raises:
            ValueError: the answers differ by more than the tolerance; tells by how much.
        """
        few = list(prompts[:FEW])
        plain, turned = ask(few), ask(few[::-1])[::-1]
        pairs = zip(few, turned, strict=True)
        self._judge("order", plain, [Known(prompt, told.logprob) for prompt, told in pairs])
        if self.reference is None:
            log.warning(
                "teacher %s: model_parity is not set, so nothing tells whether the server has the "
                "weights that it should have",
                self.teacher,
            )
            return
        known = self.reference.known(few)
        self._judge("model_parity", ask([entry.prompt for entry in known]), known)

    def _judge(self, probe: str, told: Sequence[Told], expected: Sequence[Known]) -> None:
        gaps = [
            Gap.of(known.prompt.name, found.logprob, known.logprob)
            for found, known in zip(told, expected, strict=True)
        ]
        if not any(gap.num_tokens for gap in gaps):
            raise ValueError(
                f"teacher {self.teacher}: {probe} compares nothing: none of its {len(gaps)} "
                "documents has a token behind another; expected longer ones"
            )
        worst = max(gaps, key=lambda gap: gap.mean)
        if worst.mean <= self.tolerance:
            log.info("teacher %s: %s differs by %.2g nats a token", self.teacher, probe, worst.mean)
            return
        raise ValueError(
            f"teacher {self.teacher}: on document {worst.document} the server's log-probabilities "
            f"are {worst.mean:.3g} nats a token off (mean of {worst.num_tokens}; largest "
            f"{worst.largest:.3g}) {MEANING[probe]}; expected at most {self.tolerance:g} "
            f"(server.tolerance): {REMEDY[probe]}"
        )


MEANING = {
    "order": "when the documents are asked in another order",
    "model_parity": "those of model_parity",
}
REMEDY = {
    "order": "answers are mixed up, or depend on what is asked beside; try server.concurrency: 1, "
    "and no speculative decoding or prefix caching in the server",
    "model_parity": "the server has other weights, a coarser number format, or another tokenizer",
}
