"""Hidden states: the student's at each common chunk's end are drawn to the teacher's.

Where both models have read the same bytes, the distance of their final-norm hidden states is the
loss, relative to the teacher's mean size in the document, so it has no unit. It says nothing of
tokens: beside cross-entropy or another method it can help, alone it does not teach.

Source: ALM's hidden-state loss, Minixhofer et al. 2025, arXiv:2503.20083, section 3;
bminixhofer/tokenkit (``alm_latents``).
"""

from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import PositiveFloat, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.coarser import space_chunks
from losses.alignment.live import LiveChunks, known_tokens, live_chunks_of
from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair, known_widths
from losses.document import Document
from losses.dual_space.projectors import apply
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import HiddenStates, Signal, expect, pack, unpack

EPSILON = 1e-8
"""Added to the teacher's size, as published."""


@dataclass(frozen=True, config=OPTIONS)
class Hidden(Method):
    """Distance of hidden states at chunk ends.

    Args:
        normalization: what the squared (``l2``) or absolute (``l1``) difference is divided by: the
            teacher's mean square or mean size in the document; ``channelwise``, that of each
            channel apart (published, but over a batch; a document of few chunks has channels of
            next to no size).
        chunks: where states are compared: at the end of each ``finest`` common chunk, or of whole
            words (``space``).
        projector: the student's states go through a trained linear map, with a bias: ``auto``,
            where the widths differ; ``always``; ``none``, which needs one width.
        projector_learning_rate: peak learning rate of that map; None for the student's.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "4 × hidden size + 8; 2 × in bfloat16"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.HIDDEN_STATES})

    normalization: Literal["l2", "l2_channelwise", "l1", "l1_channelwise"] = "l2"
    chunks: Literal["finest", "space"] = "finest"
    projector: Literal["auto", "always", "none"] = "auto"
    projector_learning_rate: PositiveFloat | None = None

    @model_validator(mode="after")
    def _every_option_counts(self) -> "Hidden":
        if self.projector == "none" and self.projector_learning_rate is not None:
            raise ValueError(
                'option "projector_learning_rate" has no effect with projector "none"; leave it out'
            )
        return self

    @property
    def zero_at_identity(self) -> bool:
        return self.projector == "none"

    @property
    def trains_modules(self) -> bool:
        return self.projector != "none"

    @property
    def modules_learning_rate(self) -> float | None:
        return self.projector_learning_rate

    def check(self, pair: Pair) -> None:
        widths = (pair.student_width, pair.teacher_width)
        if self.projector == "none" and None not in widths and widths[0] != widths[1]:
            raise ValueError(
                f"method hidden: the student's hidden states have {widths[0]} channels, the "
                f'teacher\'s {widths[1]}; expected projector "auto" or "always"'
            )

    def signal(self, teacher: Prediction, document: Document) -> HiddenStates:
        positions = teacher.scored_positions
        return HiddenStates(
            byte_ends=teacher.tokens.byte_ends.astype(np.int32),
            positions=pack(positions.to(torch.int32)),
            hidden=pack(teacher.hidden[positions]),
        )

    def check_widths(self, pair: Pair) -> None:
        if self.projector != "none":
            known_widths(pair, "hidden")

    def modules(self, pair: Pair) -> nn.ModuleDict:
        if self.projector == "none":
            return nn.ModuleDict()
        ours, theirs = known_widths(pair, "hidden")
        if self.projector == "auto" and ours == theirs:
            return nn.ModuleDict()
        return nn.ModuleDict({"projector": nn.Linear(ours, theirs)})

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        states = expect(signal, HiddenStates)
        chunks = self._chunks(student.tokens, pack(student.scored), states, pair)
        ours = student.hidden[torch.from_numpy(chunks.student_last).to(student.device)]
        if "projector" in modules:
            ours = apply(modules["projector"], ours)
        rows = torch.from_numpy(np.searchsorted(states.positions, chunks.teacher_last))
        theirs = unpack(states.hidden)[rows].to(ours.device)
        finer = torch.promote_types(ours.dtype, torch.float32)
        values = relative_distance(ours.to(finer), theirs.to(finer), self.normalization)
        return LossTerm(total=values.sum(), units=len(chunks))

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return len(self._chunks(tokens, scored, expect(signal, HiddenStates), pair))

    def _chunks(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], states: HiddenStates, pair: Pair
    ) -> LiveChunks:
        known = known_tokens(len(states.byte_ends), states.positions)
        words = partial(space_chunks, student=tokens, vocabulary=pair.student)
        join = words if self.chunks == "space" else None
        return live_chunks_of(tokens, scored, states.byte_ends, known, join)


def relative_distance(
    student: Float[Tensor, "chunk hidden"], teacher: Float[Tensor, "chunk hidden"], by: str
) -> Float[Tensor, "chunk"]:
    """Mean over the channels of the difference, in units of the teacher's mean size.

    >>> ours, theirs = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    >>> relative_distance(ours, theirs, "l2").tolist()
    [0.5]
    """
    power = 2 if by.startswith("l2") else 1
    sizes, differences = (x.abs() ** power for x in (teacher, student - teacher))
    size = sizes.mean(0) if by.endswith("channelwise") else sizes.mean()
    return (differences / (size + EPSILON)).mean(-1)
