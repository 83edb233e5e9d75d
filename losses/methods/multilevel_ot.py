"""MultiLevelOT: sorted probabilities compared by token, by logarithm and over the sequence.

Like ``uld`` it knows no tokens, only how probability is shared out; the columns are sorted once a
document, not once a row, and the sequences are also compared as wholes by optimal transport. It
cannot teach alone.

Source: Cui et al. 2025, arXiv:2412.14528; 2018cx/Multi-Level-OT.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.live import known_tokens, live_chunks_of
from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.document import Document
from losses.needs import Need
from losses.optimal_transport.columns import (
    ColumnProbabilities,
    column_probabilities,
    largest_columns,
    nearest_columns,
    read_columns,
)
from losses.optimal_transport.levels import RowPairs, Weights, levels, published_levels
from losses.prediction import Prediction
from losses.signals import Signal, expect, pack, unpack


@dataclass(frozen=True, config=OPTIONS)
class MultilevelOt(Method):
    """Optimal transport between tokens and between sequences.

    Args:
        k: tokens listed, those most likely over the document; 4k + 8 bytes a token.
        matching: the student's columns: ``sorted``, by their own sums; ``greedy``, for each of the
            teacher's the nearest that is still free (slow: k passes over the vocabulary).
        student_temperature: divides the student's logits, after their standard deviation.
        teacher_temperature: the teacher's.
        logarithmic_weight: of the logarithmic term.
        sequence_weight: of the sequences' cost.
        epsilon: weight of the plan's entropy.
        iterations: of Sinkhorn.
        published: as the paper's code has it: the i-th row with the i-th whatever they say, a
            second softmax, the student as the target, see ``losses.optimal_transport.levels``.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "4k + 8: 208 at k = 50"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.DISTRIBUTIONS})

    k: PositiveInt = 50
    matching: Literal["sorted", "greedy"] = "sorted"
    student_temperature: PositiveFloat = 1.0
    teacher_temperature: PositiveFloat = 1.0
    logarithmic_weight: float = Field(default=0.1, ge=0)
    sequence_weight: float = Field(default=0.1, ge=0)
    epsilon: PositiveFloat = 0.1
    iterations: PositiveInt = 10
    published: bool = False

    @property
    def zero_at_identity(self) -> bool:
        same = self.student_temperature == self.teacher_temperature
        return same and not self.published and not self.sequence_weight

    def check(self, pair: Pair) -> None:
        needed = min(self.k, len(pair.teacher))
        if self.published and self.matching == "greedy" and len(pair.student) < needed:
            raise ValueError(
                f"method multilevel_ot: greedy matching needs {needed} student tokens, there are "
                f'{len(pair.student)}; lower k or use matching "sorted"'
            )

    def signal(self, teacher: Prediction, document: Document) -> ColumnProbabilities:
        return column_probabilities(teacher, self.k, self.teacher_temperature)

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        columns = expect(signal, ColumnProbabilities)
        theirs = unpack(columns.probabilities).to(student.device)
        positions = student.scored_positions - 1
        rows = self._pairs(student.tokens, pack(student.scored), columns)
        pairs = RowPairs(*(torch.from_numpy(side).to(student.device) for side in rows))
        if not self.published:  # one student token at least is left for the rest
            theirs = theirs[:, : min(theirs.shape[1], student.head.num_valid - 1)]
        ids = self._ids(student, theirs, pairs)
        ours = read_columns(student, positions, ids, self.student_temperature)
        if self.published:
            total = published_levels(theirs, ours, self._weights)
        else:
            total = levels(theirs, ours, pairs, self._weights)
        return LossTerm(total=total, units=len(pairs.student))

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        rows, _ = self._pairs(tokens, scored, expect(signal, ColumnProbabilities))
        return len(rows)

    @property
    def _weights(self) -> Weights:
        return Weights(self.logarithmic_weight, self.sequence_weight, self.epsilon, self.iterations)

    def _pairs(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], columns: ColumnProbabilities
    ) -> tuple[Int64[np.ndarray, "pair"], Int64[np.ndarray, "pair"]]:
        """Numbers of the rows that are compared: those that begin the same chunk."""
        ours, theirs = np.flatnonzero(scored), columns.positions.astype(np.int64) + 1
        if self.published:
            numbers = np.arange(min(len(ours), len(theirs)))
            return numbers, numbers
        known = known_tokens(len(columns.byte_ends), theirs)
        chunks = live_chunks_of(tokens, scored, columns.byte_ends, known)
        return (
            np.searchsorted(ours, chunks.student_first).astype(np.int64),
            np.searchsorted(theirs, chunks.teacher_first).astype(np.int64),
        )

    def _ids(
        self, student: Prediction, theirs: Float[Tensor, "row k"], pairs: RowPairs
    ) -> Int64[Tensor, "column"]:
        """The student's columns that are compared with the teacher's."""
        positions, temperature = student.scored_positions - 1, self.student_temperature
        if self.matching == "sorted":
            k = self.k if self.published else theirs.shape[1]
            return largest_columns(student, positions, k, temperature)
        if not self.published:
            target = theirs[pairs.teacher]
            return nearest_columns(student, positions[pairs.student], target, temperature)
        target = theirs.new_zeros(len(positions), theirs.shape[1])
        target[: len(pairs.teacher)] = theirs[: len(pairs.teacher)]
        return nearest_columns(student, positions, target, temperature)
