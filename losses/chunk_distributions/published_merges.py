"""GOLD's published ways to make one distribution of a chunk: a row times the chunk's scalars.

Both are unnormalised and blame the wrong token of a chunk that only one side splits; kept for
comparison with TRL.

Source: GOLD, huggingface/trl ``ULDLoss._merge_probabilities_with_alignment_groups``.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.chunk_distributions.top_tokens import realised_logprobs, tempered
from losses.prediction import Prediction, gather
from losses.signals import TopProbabilities, unpack

PublishedMerge: TypeAlias = Literal["bayesian", "observed"]
LEAST = 1e-8
"""Smallest probability in the published code's products and divergences."""


@dataclass(frozen=True)
class MergedRows:
    """One row a chunk on both sides, each with the factor it is multiplied by.

    Args:
        positions: the student's rows.
        student_factor: log of their factor, with a gradient.
        listed: the teacher's log-masses, factor included: realised token, then the others.
        tail: log of the teacher's mass that is not listed, factor included.
        number: which rows of the signal these are.
    """

    positions: Int64[Tensor, "chunk"]
    student_factor: Float[Tensor, "chunk"]
    listed: Float[Tensor, "chunk listed"]
    tail: Float[Tensor, "chunk"]
    number: Int64[np.ndarray, "chunk"]

    @property
    def cells(self) -> Float[Tensor, "chunk cells"]:
        """Listed tokens, no chunk, the tail."""
        nothing = torch.full_like(self.tail, -torch.inf)
        return torch.cat([self.listed, torch.stack([nothing, self.tail], dim=-1)], dim=-1)


def merged_rows(
    student: Prediction,
    signal: TopProbabilities,
    rows: ChunkRows,
    merge: PublishedMerge,
    temperature: float,
) -> MergedRows:
    """The chunks' merged rows.

    Args:
        student: the student's prediction.
        signal: the teacher's rows, those that follow each token for ``observed``.
        rows: the chunks.
        merge: ``bayesian``, the row of the last token times the probabilities of those before;
            ``observed``, the row *after* the first token times what the rows after the others
            say about those same tokens: off by one, as published.
        temperature: divides the student's logits.
    """
    logprob = signal.logprob.astype(np.float64)
    if merge == "bayesian":
        own = realised_logprobs(student, temperature)
        without, teacher_without = rows.alignment.student_last, rows.alignment.teacher_last
        positions = without - 1
    else:
        own = _once_more(student, temperature).clamp(min=math.log(LEAST))
        logprob = np.maximum(logprob, math.log(LEAST))
        without, teacher_without = rows.student_first, rows.teacher_first
        positions = without
    number = signal.row_of(teacher_without)
    factor = torch.from_numpy(rows.teacher_product(logprob, teacher_without)).to(own)
    realised = torch.from_numpy(signal.logprob[teacher_without]).to(own).unsqueeze(-1)
    others = unpack(signal.others[number]).to(own)
    return MergedRows(
        positions=torch.from_numpy(positions).to(student.device),
        student_factor=rows.student_product(student, own, without),
        listed=torch.cat([realised, others], dim=-1) + factor.unsqueeze(-1),
        tail=torch.from_numpy(signal.tail[number]).to(own) + factor,
        number=number,
    )


def _once_more(student: Prediction, temperature: float) -> Float[Tensor, "scored"]:
    """Log-probability (nats) of each scored token in the row that follows it."""
    positions = student.scored_positions
    ids = torch.from_numpy(student.tokens.ids).to(student.device)[positions]
    return student.map_rows(
        lambda rows, own: gather(tempered(rows, temperature), own), positions, ids
    )
