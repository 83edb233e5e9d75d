"""GOLD: a Jensen-Shannon divergence on tokens with the same bytes, sorted masses for the others.

By default the matched tokens, the realised chunk and everything else are cells that make up one
on both sides, so the divergence is never negative. TRL multiplies a row by the probabilities of
the chunk's other tokens and compares what is then no distribution; that can be negative.

Source: General On-Policy Logit Distillation, huggingface/trl ``experimental.gold``; the
divergence: GKD, Agarwal et al. 2023, arXiv:2306.13649.
"""

import math
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
from losses.cells import cell_js
from losses.chunk_rows import ChunkRows, chunk_rows
from losses.document import Document
from losses.merged_rows import LEAST, PublishedMerge, merged_rows
from losses.prediction import Prediction
from losses.projected_cells import Starts, projected_cells
from losses.projection_columns import Matched, matched_of, present
from losses.signals import Signal, TopTokens, expect, pack
from losses.teacher_cells import chunk_starts, teacher_cells
from losses.top_tokens import Precision, tempered, top_tokens
from losses.unmatched import Remainder, remainder_l1, student_entries, teacher_remainder


@dataclass(frozen=True, config=OPTIONS)
class Gold(Method):
    """Generalised Jensen-Shannon on matched tokens plus sorted L1 on the others.

    Args:
        k: teacher tokens listed beside the realised one; 6k + 16 bytes a token.
        merge: a chunk's distribution. ``chain``, its joint probability as a cell of its own;
            ``bayesian`` and ``observed``, TRL's products (``losses.merged_rows``); TRL's default
            is ``observed``. With these, a matched token that the teacher did not list has TRL's
            smallest probability, 1e-8.
        beta: the teacher's share in the divergence; 0 is KL(teacher || student), 1 the reverse.
        matched_weight: weight of the divergence; None: the matched part of the teacher's
            vocabulary.
        unmatched_weight: weight of the sorted L1; None: what is left of one.
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's logits.
        precision: of the listed log-probabilities on the wire.

    Raises:
        ValueError: only one of the weights was set.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "6k + 16: 400 at k = 64"
    needs_projection: ClassVar[bool] = True

    k: PositiveInt = 64
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
            raise ValueError(
                "method gold: the two vocabularies share no token, so nothing is matched; use "
                "uld or alm"
            )
        if self.merge == "chain":
            parts = self._chain(student, top, rows, matched)
        else:
            parts = self._merged(student, top, rows, matched, self.merge)
        share = matched.share
        weights = (self.matched_weight, self.unmatched_weight)
        both = (share, 1 - share) if weights[0] is None or weights[1] is None else weights
        total = (parts * parts.new_tensor(both)).sum()
        return LossTerm(total=total, units=rows.num_chunks)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return chunk_rows(tokens, scored, expect(signal, TopTokens)).num_chunks

    def _chain(
        self, student: Prediction, top: TopTokens, rows: ChunkRows, matched: Matched
    ) -> Float[Tensor, "chunk 2"]:
        after = rows.student_after_first(student, self.student_temperature)
        starts = chunk_starts(top, rows, student.tokens.ids, student.device)
        teacher = teacher_cells(top, rows, after)
        remainder = teacher_remainder(teacher, starts, matched)

        def read(
            logprobs: Float[Tensor, "row vocab"],
            after: Float[Tensor, "row"],
            teacher: Float[Tensor, "row cells"],
            *cut: Tensor,
        ) -> Float[Tensor, "row 2"]:
            table, here = tempered(logprobs, self.student_temperature), Starts(*cut[:4])
            cells = projected_cells(table, after, matched.columns.weights, matched.columns, here)
            theirs = Remainder(*cut[4:])
            ours = student_entries(table, after, here, matched, theirs.entries.shape[1])
            sorted_part = remainder_l1(theirs, ours, cells[:, -1], relative=False)
            return torch.stack([cell_js(teacher, cells, self.beta), sorted_part], dim=-1)

        positions = torch.from_numpy(rows.student_first - 1).to(student.device)
        return student.map_rows(read, positions, after, teacher, *starts.fields, *remainder.fields)

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
            here = Starts.plain(ids)
            entries = student_entries(table, factor, here, matched, left[0].shape[1])
            entries = entries * factor.exp().unsqueeze(-1)
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
