"""GOLD: a Jensen-Shannon divergence on tokens with the same bytes, sorted masses for the others.

By default the matched tokens, the realised chunk and everything else are cells that make up one
on both sides, so the divergence is never negative. TRL multiplies a row by the probabilities of
the chunk's other tokens and compares what is then no distribution; that can be negative.

Source: General On-Policy Logit Distillation, huggingface/trl ``experimental.gold``; the
divergence: GKD, Agarwal et al. 2023, arXiv:2306.13649.
"""

import math
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses import divergence
from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.chunk_distributions.cell_divergence import cell_js
from losses.chunk_distributions.chunk_rows import ChunkRows, chunk_rows
from losses.chunk_distributions.columns import present
from losses.chunk_distributions.comparison import Comparison
from losses.chunk_distributions.matched import Matched, matched_of
from losses.chunk_distributions.published_merges import LEAST, PublishedMerge, merged_rows
from losses.chunk_distributions.remainders import (
    Remainder,
    largest_unmatched,
    remainder_l1,
    teacher_remainder,
)
from losses.chunk_distributions.student_cells import StudentBlock
from losses.chunk_distributions.teacher_cells import Starts
from losses.chunk_distributions.top_tokens import Precision, tempered, top_tokens
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import Signal, TopTokens, expect, pack

NOTHING_MATCHED = (
    "method gold: the student's and the teacher's vocabulary share no token of the same bytes, so "
    "nothing is matched; use alm, p_kl or uld, which need none"
)


@dataclass(frozen=True, config=OPTIONS)
class Gold(Method):
    """Generalised Jensen-Shannon on matched tokens plus sorted L1 on the others.

    Args:
        k: teacher tokens listed beside the realised one; 6k + 16 bytes a token.
        merge: a chunk's distribution. ``chain``, its joint probability as a cell of its own;
            ``bayesian`` and ``observed``, TRL's products, the latter its default. With these, a
            matched token that the teacher did not list has TRL's smallest probability, 1e-8.
        beta: the teacher's share in the divergence; 0 is KL(teacher || student), 1 the reverse.
        matched_weight: weight of the divergence; None: under ``chain`` the part of the teacher's
            probability that is matched, row by row; else, as TRL, of its vocabulary.
        unmatched_weight: weight of the sorted L1; None: what is left of one.
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's logits.
        precision: of the listed log-probabilities on the wire.

    Raises:
        ValueError: only one of the weights was set.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "6k + 16: 12,304 at k = 2048"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS, Need.TOP_K})
    needs_projection: ClassVar[bool] = True

    k: PositiveInt = 2048
    merge: Literal["chain", "bayesian", "observed"] = "chain"
    beta: float = Field(default=0.5, ge=0, le=1)
    matched_weight: float | None = Field(default=None, ge=0)
    unmatched_weight: float | None = Field(default=None, ge=0)
    student_temperature: PositiveFloat = 1.0
    teacher_temperature: PositiveFloat = 1.0
    precision: Precision = "float16"

    @model_validator(mode="after")
    def _both_weights(self) -> "Gold":
        if (self.matched_weight is None) != (self.unmatched_weight is None):
            raise ValueError('options "matched_weight" and "unmatched_weight": set both or neither')
        return self

    @property
    def needs_distributions(self) -> bool:
        return self.teacher_temperature != 1 or self.merge == "observed"

    @property
    def tells_likelihoods(self) -> bool:
        return self.merge != "observed"

    def check(self, pair: Pair) -> None:
        contents = pair.student.token_bytes
        if not any(content and pair.teacher.ids_of(content) for content in contents):
            raise ValueError(NOTHING_MATCHED)

    def signal(self, teacher: Prediction, document: Document) -> TopTokens:
        return top_tokens(
            teacher,
            self.k,
            temperature=self.teacher_temperature,
            precision=self.precision,
            after=self.merge == "observed",
        )

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        top = expect(signal, TopTokens)
        rows = chunk_rows(student.tokens, pack(student.scored), top)
        matched = matched_of(present(pair.projection, "gold"), student.device, "strict")
        if not len(matched.teachers):
            raise ValueError(NOTHING_MATCHED)
        if self.merge == "chain":
            comparison = Comparison(top, rows, matched.columns, self.student_temperature)
            compare = partial(self._compare, matched)
            total = comparison.total(student, matched.columns.weights, compare)
        else:
            both = self._weights or (matched.share, 1 - matched.share)
            parts = self._merged(student, top, rows, matched, self.merge)
            total = (parts * parts.new_tensor(both)).sum()
        return LossTerm(total=total, units=rows.num_chunks)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return chunk_rows(tokens, scored, expect(signal, TopTokens)).num_chunks

    @property
    def _weights(self) -> tuple[float, float] | None:
        if self.matched_weight is None or self.unmatched_weight is None:
            return None
        return self.matched_weight, self.unmatched_weight

    def _compare(self, matched: Matched, block: StudentBlock) -> Float[Tensor, "row"]:
        theirs = teacher_remainder(block.teacher, block.starts, matched)
        ids = largest_unmatched(block.probs, matched, theirs.entries.shape[1])
        rest = remainder_l1(theirs, block.masses(ids), block.cells[:, -1], relative=False)
        first, second = self._weights or (1 - theirs.mass, theirs.mass)
        return first * cell_js(block.teacher, block.cells, self.beta) + second * rest

    def _merged(
        self,
        student: Prediction,
        top: TopTokens,
        rows: ChunkRows,
        matched: Matched,
        merge: PublishedMerge,
    ) -> Float[Tensor, "chunk 2"]:
        merged = merged_rows(student, top, rows, merge, self.student_temperature)
        ids = np.concatenate([top.realised[merged.number, None], top.ids[merged.number]], axis=-1)
        starts = Starts.plain(torch.from_numpy(ids).to(student.device))
        remainder = teacher_remainder(merged.cells, starts, matched)

        def read(logprobs: Float[Tensor, "row vocab"], *cut: Tensor) -> Float[Tensor, "row 2"]:
            factor, ids, listed, *left = cut
            table = tempered(logprobs, self.student_temperature)
            common = table[:, matched.students] + factor.unsqueeze(-1)
            theirs, asked = _spread(ids.long(), listed, matched)
            floored = common.clamp(min=math.log(LEAST))
            first = divergence.js(theirs, floored, self.beta)
            rest = factor.exp() - torch.where(asked, common.exp(), 0).sum(-1)
            largest = largest_unmatched(table, matched, left[0].shape[1])
            entries = (table.gather(-1, largest) + factor.unsqueeze(-1)).exp()
            second = remainder_l1(Remainder(*left), entries, rest, relative=False)
            return torch.stack([first, second], dim=-1)

        asked = (merged.student_factor, starts.ids, merged.listed, *remainder.fields)
        return student.map_rows(read, merged.positions, *asked)


def _spread(
    ids: Int64[Tensor, "row listed"], listed: Float[Tensor, "row listed"], matched: Matched
) -> tuple[Float[Tensor, "row pair"], Bool[Tensor, "row pair"]]:
    """The teacher's log-masses on all pairs, floored, and which of them it listed."""
    num_pairs = len(matched.teachers)
    pair = torch.where(matched.is_matched(ids), matched.columns.starts[ids], num_pairs)
    floor = math.log(LEAST)
    masses = listed.new_full((len(ids), num_pairs + 1), floor)
    masses.scatter_(-1, pair, listed.clamp(min=floor))
    asked = torch.zeros_like(masses, dtype=torch.bool).scatter_(-1, pair, value=True)
    return masses[:, :-1], asked[:, :-1]
