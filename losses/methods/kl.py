"""KL and its kin between full next-token distributions, for two models with one vocabulary.

The teacher sends its final-norm hidden states; with its head, sent once, the student rebuilds the
exact distributions row chunk by row chunk, so no table of the vocabulary crosses a process.

Source: Hinton et al. 2015, arXiv:1503.02531; each divergence's own paper is named at its function.
"""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair, refuse_unused
from losses.divergence import Name, named
from losses.document import Document
from losses.needs import Need
from losses.prediction import Head, Prediction
from losses.signals import HiddenStates, IdentifiedStates, Signal, expect, pack, unpack

_PARAMETERS = {
    "skewed_forward": "skew",
    "skewed_reverse": "skew",
    "js": "beta",
    "adaptive": "alpha",
}


@dataclass(frozen=True, config=OPTIONS)
class Kl(Method):
    """A divergence between the teacher's and the student's next-token distributions.

    Args:
        divergence: which one, see ``losses.divergence``.
        temperature: divides both models' logits.
        times_temperature_squared: multiply by the squared temperature, so that the gradient
            keeps its size (arXiv:1503.02531). Off as in TRL.
        beta: teacher's share in ``js``, 0.5 unless set; 0 is forward, 1 reverse, as in TRL.
        skew: share of the first distribution in the mixture of the ``skewed_*``, 0.1 unless set.
        alpha: teacher's mass in the tail of ``adaptive``, 0.5 unless set.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "tokens"
    bytes_per_token: ClassVar[str] = "4 × hidden size + 12; 2 × in bfloat16"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.HIDDEN_STATES})
    needs_teacher_head: ClassVar[bool] = True

    divergence: Name = "forward"
    temperature: PositiveFloat = 1.0
    times_temperature_squared: bool = False
    beta: float | None = Field(default=None, ge=0, le=1)
    skew: float | None = Field(default=None, ge=0, lt=1)
    alpha: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _every_option_counts(self) -> "Kl":
        options = {"beta": self.beta, "skew": self.skew, "alpha": self.alpha}
        options.pop(_PARAMETERS.get(self.divergence, ""), None)
        refuse_unused(self.divergence, **options)
        if self.times_temperature_squared and self.temperature == 1:
            raise ValueError(
                'option "times_temperature_squared" has no effect with temperature 1; leave it out'
            )
        return self

    @property
    def zero_at_identity(self) -> bool:
        return True

    def check(self, pair: Pair) -> None:
        if not pair.has_one_vocabulary:
            raise ValueError(
                f"method kl needs one vocabulary, but the student's ({len(pair.student)} ids) and "
                f"the teacher's ({len(pair.teacher)} ids) differ; use alm, which needs only the "
                "same bytes"
            )

    def signal(self, teacher: Prediction, document: Document) -> IdentifiedStates:
        positions = teacher.scored_positions - 1
        return IdentifiedStates(
            byte_ends=teacher.tokens.byte_ends.astype(np.int32),
            positions=pack(positions.to(torch.int32)),
            hidden=pack(teacher.hidden[positions]),
            ids=teacher.tokens.ids.astype(np.int32),
        )

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        states, head = expect(signal, HiddenStates), _present(pair.teacher_head)
        _refuse_other_tokens(student, states)

        def rows(
            logprobs: Float[Tensor, "row vocab"], hidden: Float[Tensor, "row hidden"]
        ) -> Float[Tensor, "row"]:
            with torch.no_grad():
                teacher = torch.log_softmax(head.logits(hidden) / self.temperature, dim=-1)
            return self.compare(teacher, logprobs)

        hidden = unpack(states.hidden).to(student.device)
        total = student.map_rows(rows, student.scored_positions - 1, hidden).sum()
        return LossTerm(total=self.factor * total, units=len(hidden))

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return int(scored.sum())

    @property
    def factor(self) -> float:
        """What the summed divergence is multiplied by."""
        return self.temperature**2 if self.times_temperature_squared else 1.0

    def compare(
        self, teacher: Float[Tensor, "row vocab"], logprobs: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row"]:
        """The divergence of rows (nats): the teacher's tempered already, the student's not."""
        return self._divergence(teacher, self._tempered(logprobs))

    def _tempered(self, logprobs: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        if self.temperature == 1:
            return logprobs
        return torch.log_softmax(logprobs / self.temperature, dim=-1)

    def _divergence(
        self, teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row"]:
        name = _PARAMETERS.get(self.divergence)
        parameter = None if name is None else getattr(self, name)
        return named(self.divergence, parameter)(teacher, student)


def _present(head: Head | None) -> Head:
    if head is None:
        raise ValueError("method kl rebuilds the teacher's distributions; pass Pair.teacher_head")
    return head


def _refuse_other_tokens(student: Prediction, states: HiddenStates) -> None:
    """Rows can only be compared if both models read the same tokens and score the same ones."""
    positions = (student.scored_positions - 1).cpu().numpy()
    same = np.array_equal(states.byte_ends, student.tokens.byte_ends)
    same = same and np.array_equal(states.positions, positions)
    if same and isinstance(states, IdentifiedStates):
        predicted = positions + 1
        same = np.array_equal(states.ids[predicted], student.tokens.ids[predicted])
    if not same:
        raise ValueError(
            f"method kl: the teacher read {len(states.byte_ends)} tokens and sent "
            f"{len(states.positions)} rows, the student reads {len(student.tokens)} tokens and "
            f"scores {len(positions)}, or they are others or end at other bytes; expected the same "
            "tokens on both sides: use one tokenizer, template and document for both"
        )
