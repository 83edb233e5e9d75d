"""DSKD: two models compared in both their spaces, with full distributions on both sides.

The teacher's hidden states go into the student's space, through the student's head (held fixed),
and teach the student there; the student's go into the teacher's space, through the teacher's head.
Version 1 aligns the rows by attention between the models, version 2 pairs those that predict the
same token after the same bytes. Pieces are compared by their bytes, never by their spelling.

Source: Zhang et al. 2024, arXiv:2406.17328; songmzhang/DSKD (version 1), songmzhang/DSKDv2.
"""

from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair, known_widths
from losses.chunk_distributions.top_tokens import tempered
from losses.divergence import Name, named
from losses.document import Document
from losses.dual_space.attention import CrossAttention
from losses.dual_space.projected import attended, attention_rows, paired
from losses.dual_space.projectors import Projectors
from losses.dual_space.rows import paired_rows
from losses.dual_space.shared_logits import SharedLogits
from losses.dual_space.shared_tokens import shared_tokens
from losses.dual_space.spaces import Compare, in_student_space, in_teacher_space, rows_in_memory
from losses.dual_space.states import EmbeddedStates, embedded_states, hidden_states
from losses.needs import Need
from losses.prediction import Head, Prediction
from losses.signals import HiddenStates, Signal, expect


class Parts(NamedTuple):
    """The three losses, a value a row, in nats.

    Args:
        answers: cross-entropy of the projected teacher, which trains its projector.
        student: from the projected teacher to the student.
        teacher: from the teacher to the projected student.
    """

    answers: Float[Tensor, "row"]
    student: Float[Tensor, "row"]
    teacher: Float[Tensor, "teacher_row"]


@dataclass(frozen=True, config=OPTIONS)
class Dskd(Method):
    """Distillation in the student's and in the teacher's space.

    Args:
        version: 1, attention between the models (or rows one to one where the vocabularies are
            equal) and the text's own tokens as labels; 2, rows one to one, projectors that start
            at the pseudo-inverse, and the teacher's most likely token as the label.
        divergence: in the student's space, see ``kl``; in the teacher's it is the forward KL.
        temperature: divides all logits but those of the labels' cross-entropy.
        restrict: teach the student only where the projected teacher finds its label most likely.
        published: version 1: attend to rows that have read the answer, and put its embedding into
            the teacher's values; version 2: leave the teacher's space out where its most likely
            token is none of the student's.
        projector_learning_rate: peak learning rate of the projectors.
    """

    unit: ClassVar[str] = "tokens"
    bytes_per_token: ClassVar[str] = (
        "4 × hidden size + 8, with version 1 8 × hidden size + 8; half in bfloat16"
    )
    reads: ClassVar[frozenset[Need]] = frozenset({Need.HIDDEN_STATES})
    metric_names: ClassVar[tuple[str, ...]] = ("answers", "student", "teacher")
    needs_teacher_head: ClassVar[bool] = True

    version: Literal[1, 2] = 2
    divergence: Name = "forward"
    temperature: PositiveFloat = 2.0
    restrict: bool = True
    published: bool = False
    projector_learning_rate: PositiveFloat = 1e-3

    @property
    def trains_modules(self) -> bool:
        return True

    @property
    def modules_learning_rate(self) -> float:
        return self.projector_learning_rate

    def check(self, pair: Pair) -> None:
        if self.version == 2 and not len(shared_tokens(pair.student, pair.teacher).students):
            raise ValueError(
                "method dskd: the two vocabularies share no token, but version 2 starts from "
                "shared ones; use version: 1, or alm"
            )
        if self.version == 1 and self.published and pair.has_one_vocabulary:
            raise ValueError(
                'method dskd: option "published" has no effect with version 1 and one vocabulary, '
                "where rows are paired; leave it out"
            )

    def signal(self, teacher: Prediction, document: Document) -> HiddenStates:
        return embedded_states(teacher) if self.version == 1 else hidden_states(teacher)

    def check_widths(self, pair: Pair) -> None:
        known_widths(pair, "dskd")

    def modules(self, pair: Pair) -> nn.ModuleDict:
        ours, theirs = known_widths(pair, "dskd")
        if self.version == 1 and pair.has_one_vocabulary:
            return nn.ModuleDict({"spaces": Projectors(ours, theirs)})
        if self.version == 1:
            attention = CrossAttention(ours, theirs, knows_answer=self.published)
            return nn.ModuleDict({"spaces": attention})
        if pair.student_head is None:
            raise ValueError("method dskd: version 2 starts from the student's head; pass it")
        shared = shared_tokens(pair.student, pair.teacher)
        return nn.ModuleDict({"spaces": SharedLogits(pair.student_head, shared, theirs)})

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        parts = self.parts(student, signal, pair, modules)
        sums = {"answers": parts.answers.sum(), "student": parts.student.sum()}
        sums["teacher"] = parts.teacher.sum()
        return LossTerm(
            total=sums["answers"] + sums["student"] + sums["teacher"],
            units=len(parts.answers),
            metrics={name: value.detach() for name, value in sums.items()},
        )

    def parts(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> Parts:
        """The three losses on one document."""
        states, head, spaces = expect(signal, HiddenStates), _present(pair), modules["spaces"]
        if isinstance(spaces, CrossAttention):
            rows = attended(student, expect(signal, EmbeddedStates), spaces)
        elif isinstance(spaces, Projectors | SharedLogits):
            rows = paired(student, states, head, spaces)
        else:
            raise TypeError(f"method dskd made no {type(spaces).__name__}; pass what modules gave")
        compare = self._compare(self.divergence)
        first = in_student_space(
            student, rows.positions, rows.theirs, rows.labels, compare, restrict=self.restrict
        )
        hidden, ours = rows.states, rows.ours
        if self.published and self.version == 2:
            hidden, ours = hidden[rows.labels >= 0], ours[rows.labels >= 0]
        forward = self._compare("forward")
        second = in_teacher_space(head, hidden, ours, forward, rows_in_memory(student, head))
        return Parts(first[:, 0], first[:, 1], second)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        states = expect(signal, HiddenStates)
        if self.version == 2 or pair.has_one_vocabulary:
            return len(paired_rows(tokens, scored, states).positions)
        positions = np.flatnonzero(scored) - 1
        seen = attention_rows(positions, tokens.byte_ends, states, everything=self.published)
        return int(seen.by_student.any(-1).sum())

    def _compare(self, name: Name) -> Compare:
        def compare(
            teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"]
        ) -> Float[Tensor, "row"]:
            ours, theirs = (tempered(table, self.temperature) for table in (student, teacher))
            return named(name)(theirs, ours)

        return compare


def _present(pair: Pair) -> Head:
    if pair.teacher_head is None:
        raise ValueError("method dskd compares full distributions; pass Pair.teacher_head")
    return pair.teacher_head
