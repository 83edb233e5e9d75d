"""H-KL: matched tokens are compared one by one, all others by their sorted masses.

W pairs student tokens with teacher tokens. The pairs, the realised chunk and everything else are
cells that make up one on both sides, so their KL is never negative; the published code leaves
everything else out, and its KL can be. What has no partner is compared by shape: the summed
absolute difference of the sorted remainders, each relative to its own sum, times the teacher's.

Source: X-Token, arXiv:2605.21699 (H-KL); NVIDIA-NeMo/RL ``CrossTokenizerDistillationLossFn`` with
``gold_loss`` and ``xtoken_loss``.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.cells import Direction, cell_kl
from losses.chunk_means import chunk_means, student_rows
from losses.chunk_rows import ChunkRows, chunk_rows
from losses.document import Document
from losses.prediction import Prediction
from losses.projected_cells import Starts, projected_cells
from losses.projection_columns import Common, Matched, matched_of, present
from losses.signals import Signal, TopTokens, expect, pack
from losses.sorted_mass import descending, descending_ids
from losses.teacher_cells import chunk_starts, teacher_cells
from losses.top_tokens import Precision, tempered, top_tokens
from losses.unmatched import Remainder, remainder_l1, student_entries, teacher_remainder


@dataclass(frozen=True, config=OPTIONS)
class HKl(Method):
    """KL over matched tokens plus sorted L1 over the rest.

    Args:
        k: teacher tokens listed beside the realised one; 6k + 16 bytes a token.
        chunk: ``chain``, the joint probability of the chunk's tokens; ``mean``, as published: the
            mean of log-probabilities over its rows, no cell for the rest (the KL can be negative)
            and remainders that are not normalised.
        common: which tokens are matched. ``top1``, every student token with its heaviest entry in
            W (the paper); ``relaxed``, where that weighs 0.6 or more (the published code);
            ``strict``, exact matches only (its ``gold_loss``).
        divergence: ``forward``, KL(teacher || student), or ``reverse``.
        temperature: divides both models' logits.
        times_temperature_squared: multiply by the squared temperature (published: yes).
        precision: of the listed log-probabilities on the wire.
        uncommon_k: sorted entries compared under ``mean``, 8192 unless set.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "6k + 16: 400 at k = 64"
    needs_projection: ClassVar[bool] = True

    k: PositiveInt = 64
    chunk: Literal["chain", "mean"] = "chain"
    common: Common = "top1"
    divergence: Direction = "forward"
    temperature: PositiveFloat = 1.0
    times_temperature_squared: bool = False
    precision: Precision = "float16"
    uncommon_k: PositiveInt | None = None

    @model_validator(mode="after")
    def _every_option_counts(self) -> "HKl":
        if self.times_temperature_squared and self.temperature == 1:
            raise ValueError(
                'option "times_temperature_squared" has no effect with temperature 1; leave it out'
            )
        if self.uncommon_k is not None and self.chunk != "mean":
            raise ValueError(
                'option "uncommon_k" has no effect with chunk "chain", which compares as many '
                "tokens as the teacher lists; leave it out"
            )
        return self

    @property
    def zero_at_identity(self) -> bool:
        return self.chunk == "chain"

    def signal(self, teacher: Prediction, document: Document) -> TopTokens:
        return top_tokens(teacher, self.k, temperature=self.temperature, precision=self.precision)

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        top = expect(signal, TopTokens)
        rows = chunk_rows(student.tokens, pack(student.scored), top)
        projection = present(pair.projection, "h_kl")
        matched = matched_of(projection, student.device, self.common)
        compare = self._chain if self.chunk == "chain" else self._mean
        total = compare(student, top, rows, matched).sum()
        factor = self.temperature**2 if self.times_temperature_squared else 1.0
        return LossTerm(total=factor * total, units=rows.num_chunks)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return chunk_rows(tokens, scored, expect(signal, TopTokens)).num_chunks

    def _chain(
        self, student: Prediction, top: TopTokens, rows: ChunkRows, matched: Matched
    ) -> Float[Tensor, "chunk"]:
        after = rows.student_after_first(student, self.temperature)
        starts = chunk_starts(top, rows, student.tokens.ids, student.device)
        teacher = teacher_cells(top, rows, after)
        remainder = teacher_remainder(teacher, starts, matched)

        def read(
            logprobs: Float[Tensor, "row vocab"],
            after: Float[Tensor, "row"],
            teacher: Float[Tensor, "row cells"],
            *cut: Tensor,
        ) -> Float[Tensor, "row"]:
            table, here = tempered(logprobs, self.temperature), Starts(*cut[:4])
            cells = projected_cells(table, after, matched.columns.weights, matched.columns, here)
            theirs = Remainder(*cut[4:])
            ours = student_entries(table, after, here, matched, theirs.entries.shape[1])
            shapes = remainder_l1(theirs, ours, cells[:, -1], relative=True)
            return cell_kl(teacher, cells, self.divergence) + shapes

        positions = torch.from_numpy(rows.student_first - 1).to(student.device)
        return student.map_rows(read, positions, after, teacher, *starts.fields, *remainder.fields)

    def _mean(
        self, student: Prediction, top: TopTokens, rows: ChunkRows, matched: Matched
    ) -> Float[Tensor, "chunk"]:
        of_student = student_rows(rows, student)
        like = student.logprob_of_scored().detach()
        means = chunk_means(top, rows, matched.columns.num_teacher, like)
        has_partner = matched.is_matched(means.ids)
        partner = matched.partner(means.ids)
        width = partner.shape[1]

        def read(
            logprobs: Float[Tensor, "row vocab"], partner: Int64[Tensor, "row listed"]
        ) -> Float[Tensor, "row entry"]:
            table = tempered(logprobs, self.temperature)
            return torch.cat([table.gather(-1, partner), table[:, matched.other_students]], dim=-1)

        columns = student.map_rows(read, of_student.positions, partner[of_student.chunk])
        logs = of_student.mean(columns)
        pairs = (means.logprobs, logs[:, :width])
        if self.divergence == "reverse":
            pairs = pairs[::-1]
        common = torch.where(has_partner, pairs[0].exp() * (pairs[0] - pairs[1]), 0).sum(-1)
        alone = ~has_partner & means.valid
        return common + self._sorted_means(logs[:, width:].exp(), means.logprobs.exp(), alone)

    def _sorted_means(
        self,
        student: Float[Tensor, "chunk student_entry"],
        teacher: Float[Tensor, "chunk teacher_entry"],
        alone: Bool[Tensor, "chunk teacher_entry"],
    ) -> Float[Tensor, "chunk"]:
        n = min(self.uncommon_k or 8192, student.shape[1], teacher.shape[1])
        theirs = descending(torch.where(alone, teacher, 0))[:, :n]
        ours = student.gather(-1, descending_ids(student, n))
        compared = torch.arange(n, device=alone.device) < alone.sum(-1, keepdim=True)
        return torch.where(compared, ours - theirs, 0).abs().sum(-1)
