"""H-KL: matched tokens are compared one by one, all others by their sorted masses.

W pairs student tokens with teacher tokens. The pairs, the realised chunk and everything else are
cells that make up one on both sides, so their KL is never negative; the published code leaves
everything else out, and its KL can be. What has no partner is compared by shape: the summed
absolute difference of the sorted remainders, each relative to its own sum, times the teacher's.

Source: X-Token, arXiv:2605.21699 (H-KL); NVIDIA-NeMo/RL ``CrossTokenizerDistillationLossFn`` with
``gold_loss`` and ``xtoken_loss``.
"""

from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.chunk_distributions.cell_divergence import Direction, cell_kl
from losses.chunk_distributions.chunk_rows import ChunkRows, chunk_rows
from losses.chunk_distributions.columns import columns_of, present
from losses.chunk_distributions.comparison import Comparison
from losses.chunk_distributions.matched import Common, Matched, matched_by, matched_of
from losses.chunk_distributions.published_means import chunk_means, student_rows
from losses.chunk_distributions.remainders import (
    largest_unmatched,
    remainder_l1,
    teacher_remainder,
)
from losses.chunk_distributions.sorted_masses import descending, descending_ids
from losses.chunk_distributions.student_cells import StudentBlock
from losses.chunk_distributions.top_tokens import Precision, tempered, top_tokens
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import Signal, TopTokens, expect, pack


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
    bytes_per_token: ClassVar[str] = "6k + 16: 12,304 at k = 2048"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS, Need.TOP_K})
    needs_projection: ClassVar[bool] = True
    borrows: ClassVar[frozenset[str]] = frozenset({"w"})

    k: PositiveInt = 2048
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
    def needs_distributions(self) -> bool:
        return self.temperature != 1

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
        matched = self._matched(pair, modules, student.device)
        if self.chunk == "mean":
            total = self._mean(student, top, rows, matched).sum()
        else:
            comparison = Comparison(top, rows, matched.columns, self.temperature)
            compare = partial(self._compare, matched)
            total = comparison.total(student, matched.columns.weights, compare)
        factor = self.temperature**2 if self.times_temperature_squared else 1.0
        return LossTerm(total=factor * total, units=rows.num_chunks)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return chunk_rows(tokens, scored, expect(signal, TopTokens)).num_chunks

    def _matched(self, pair: Pair, modules: nn.ModuleDict, device: torch.device) -> Matched:
        """By the W that the teacher's ``p_kl`` trains, if it does; it gets no gradient here."""
        projection = present(pair.projection, "h_kl")
        if "w" not in modules:
            return matched_of(projection, device, self.common)
        columns = columns_of(projection, device)
        with torch.no_grad():
            return matched_by(modules["w"](columns), columns, projection, self.common)

    def _compare(self, matched: Matched, block: StudentBlock) -> Float[Tensor, "row"]:
        theirs = teacher_remainder(block.teacher, block.starts, matched)
        ids = largest_unmatched(block.probs, matched, theirs.entries.shape[1])
        shapes = remainder_l1(theirs, block.masses(ids), block.cells[:, -1], relative=True)
        return cell_kl(block.teacher, block.cells, self.divergence) + shapes

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
