"""ULD: sorted probabilities of both models, whatever the tokens are.

The distance of two sorted rows needs no common token and no W. By default rows are compared where
both tokenizers begin a common chunk, and a chunk of several tokens has an entry of its own; the
paper compares the i-th row of one with the i-th of the other.

Source: Boizard et al. 2024, arXiv:2402.12030, equation 4; GOLD in huggingface/trl (``ULDLoss``).
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.chunk_distributions.chunk_rows import ChunkRows, chunk_rows, position_rows
from losses.chunk_distributions.published_merges import PublishedMerge, merged_rows
from losses.chunk_distributions.remainders import Remainder, least_listed, remainder, remainder_l1
from losses.chunk_distributions.sorted_masses import descending_ids
from losses.chunk_distributions.teacher_cells import TeacherCells
from losses.chunk_distributions.top_tokens import Precision, tempered, top_tokens, without_ids
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import Signal, TopProbabilities, expect, pack


@dataclass(frozen=True, config=OPTIONS)
class Uld(Method):
    """Summed absolute difference of sorted probabilities.

    Args:
        k: probabilities listed beside the realised token's; 2k + 12 bytes a token. All others
            are one lump on each side, which makes the distance no larger.
        merge: what is compared. ``chain``, the first rows of the common chunks, where the chunk's
            joint probability is an entry of its own; ``bayesian`` and ``observed``, TRL's
            products, which are unnormalised; ``positions``, the i-th token's row with the i-th
            (the paper).
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's logits.
        precision: of the listed log-probabilities on the wire.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "2k + 12: 4,108 at k = 2048"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS, Need.TOP_K})

    k: PositiveInt = 2048
    merge: Literal["chain", "bayesian", "observed", "positions"] = "chain"
    student_temperature: PositiveFloat = 1.0
    teacher_temperature: PositiveFloat = 1.0
    precision: Precision = "float16"

    @property
    def needs_distributions(self) -> bool:
        return self.teacher_temperature != 1 or self.merge == "observed"

    @property
    def tells_likelihoods(self) -> bool:
        return self.merge != "observed"

    def signal(self, teacher: Prediction, document: Document) -> TopProbabilities:
        return without_ids(
            top_tokens(
                teacher,
                self.k,
                temperature=self.teacher_temperature,
                precision=self.precision,
                after=self.merge == "observed",
            )
        )

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        top = expect(signal, TopProbabilities)
        rows = self._rows(student.tokens, pack(student.scored), top)
        values = (self._chain if self.merge == "chain" else self._merged)(student, top, rows)
        return LossTerm(total=values.sum(), units=rows.num_chunks)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return self._rows(tokens, scored, expect(signal, TopProbabilities)).num_chunks

    def _rows(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], top: TopProbabilities
    ) -> ChunkRows:
        if self.merge == "positions":
            return position_rows(scored, top)
        return chunk_rows(tokens, scored, top)

    def _chain(
        self, student: Prediction, top: TopProbabilities, rows: ChunkRows
    ) -> Float[Tensor, "chunk"]:
        after = rows.student_after_first(student, self.student_temperature)
        teacher = TeacherCells(top, rows).read(slice(None), after)
        least, everything = least_listed(teacher), torch.ones_like(teacher[:, :-1]).bool()
        left = remainder(teacher[:, :-1], everything, teacher[:, -1], least)

        def read(logprobs: Float[Tensor, "row vocab"], *cut: Tensor) -> Float[Tensor, "row"]:
            after, realised, alone, *rest = cut
            theirs = Remainder(*rest)
            table = tempered(logprobs, self.student_temperature)
            ours = _largest_entries(table, after, realised, alone, theirs.entries.shape[1])
            return remainder_l1(theirs, ours, torch.ones_like(after), relative=False)

        ids = student.tokens.ids[rows.student_first]
        arrays = (rows.student_first - 1, ids, rows.student_count == 1)
        positions, *starts = (torch.from_numpy(array).to(student.device) for array in arrays)
        return student.map_rows(read, positions, after, *starts, *left.fields)

    def _merged(
        self, student: Prediction, top: TopProbabilities, rows: ChunkRows
    ) -> Float[Tensor, "chunk"]:
        merge: PublishedMerge = "observed" if self.merge == "observed" else "bayesian"
        merged = merged_rows(student, top, rows, merge, self.student_temperature)
        cells = merged.cells
        everything = torch.ones_like(merged.listed).bool()
        left = remainder(merged.listed, everything, merged.tail, least_listed(cells))

        def read(logprobs: Float[Tensor, "row vocab"], *cut: Tensor) -> Float[Tensor, "row"]:
            factor, theirs = cut[0].exp(), Remainder(*cut[1:])
            table = tempered(logprobs, self.student_temperature)
            ids = descending_ids(table, theirs.entries.shape[1])
            ours = table.gather(-1, ids).exp() * factor.unsqueeze(-1)
            return remainder_l1(theirs, ours, factor, relative=False)

        return student.map_rows(read, merged.positions, merged.student_factor, *left.fields)


def _largest_entries(
    logprobs: Float[Tensor, "row vocab"],
    after_first: Float[Tensor, "row"],
    realised: Int64[Tensor, "row"],
    alone: Bool[Tensor, "row"],
    n: int,
) -> Float[Tensor, "row entry"]:
    """The ``n`` largest masses: the chunk, its first token without it, all other tokens.

    A chunk of one student token (``alone``) is that token.
    """
    first = logprobs.gather(-1, realised.unsqueeze(-1)).squeeze(-1).exp()
    chunk = torch.where(alone, 0, first * after_first.exp())
    without = torch.where(alone, first, -first * torch.expm1(after_first))
    with torch.no_grad():
        others = logprobs.scatter(-1, realised.unsqueeze(-1), -torch.inf)
        ids = descending_ids(others, n)
    masses = logprobs.gather(-1, ids).exp()
    masses = torch.where(ids == realised.unsqueeze(-1), 0, masses)
    masses = torch.cat([masses, without.unsqueeze(-1), chunk.unsqueeze(-1)], dim=-1)
    return masses.gather(-1, descending_ids(masses, n))
