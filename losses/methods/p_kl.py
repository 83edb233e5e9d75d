"""P-KL: the teacher's chunk distribution against the student's, projected through W.

For each common chunk the cells are the teacher's most likely tokens, the realised chunk and
everything else. The teacher gives the chunk its joint probability and takes it out of the chunk's
first token; the student does the same and sends the rest of its row through W. So a student that
writes ``201`` as one token learns it from a teacher that writes ``2``, ``0``, ``1``.

The formula is our own: the paper's chunk distribution is described as a product of conditionals,
but its equations could only be read second hand. ``chunk: mean`` is the published code.

Source: X-Token, arXiv:2605.21699 (P-KL); NVIDIA-NeMo/RL ``CrossTokenizerDistillationLossFn``.
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
from losses.chunk_distributions.cell_divergence import Direction, cell_kl
from losses.chunk_distributions.chunk_rows import ChunkRows, chunk_rows
from losses.chunk_distributions.columns import Columns, columns_of, present
from losses.chunk_distributions.comparison import Comparison
from losses.chunk_distributions.learned_w import LearnedWeights
from losses.chunk_distributions.published_means import chunk_means, listed_masses, student_rows
from losses.chunk_distributions.student_cells import StudentBlock
from losses.chunk_distributions.top_tokens import Precision, tempered, top_tokens
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import Signal, TopTokens, expect, pack

EPSILON = 1e-10
"""The published code's guard of its logarithm."""
LEARNING_RATE_OF_W = 1e-2
"""The paper's."""


@dataclass(frozen=True, config=OPTIONS)
class PKl(Method):
    """KL between chunk distributions over the teacher's tokens.

    Args:
        k: teacher tokens listed beside the realised one; 6k + 16 bytes a token.
        chunk: ``chain``, the joint probability of the chunk's tokens; ``mean``, as published: the
            mean over its rows, which nearly ignores chunks of several tokens and is not zero when
            the models agree.
        divergence: ``forward``, KL(teacher || student), or ``reverse``.
        temperature: divides both models' logits.
        times_temperature_squared: multiply by the squared temperature (published: yes).
        precision: of the listed log-probabilities on the wire.
        learnable_w: train W's weights together with the student; ``h_kl`` of the same teacher
            then matches tokens by them.
        w_learning_rate: peak learning rate of W, 1e-2 unless set.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "6k + 16: 12,304 at k = 2048"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS, Need.TOP_K})
    needs_projection: ClassVar[bool] = True

    k: PositiveInt = 2048
    chunk: Literal["chain", "mean"] = "chain"
    divergence: Direction = "forward"
    temperature: PositiveFloat = 1.0
    times_temperature_squared: bool = False
    precision: Precision = "float16"
    learnable_w: bool = False
    w_learning_rate: PositiveFloat | None = None

    @model_validator(mode="after")
    def _every_option_counts(self) -> "PKl":
        if self.times_temperature_squared and self.temperature == 1:
            raise ValueError(
                'option "times_temperature_squared" has no effect with temperature 1; leave it out'
            )
        if self.w_learning_rate is not None and not self.learnable_w:
            raise ValueError(
                'option "w_learning_rate" has no effect without learnable_w; leave it out'
            )
        return self

    @property
    def needs_distributions(self) -> bool:
        return self.temperature != 1

    @property
    def zero_at_identity(self) -> bool:
        return self.chunk == "chain"

    @property
    def trains_modules(self) -> bool:
        return self.learnable_w

    @property
    def modules_learning_rate(self) -> float | None:
        return (self.w_learning_rate or LEARNING_RATE_OF_W) if self.learnable_w else None

    def signal(self, teacher: Prediction, document: Document) -> TopTokens:
        return top_tokens(teacher, self.k, temperature=self.temperature, precision=self.precision)

    def modules(self, pair: Pair) -> nn.ModuleDict:
        if not self.learnable_w:
            return nn.ModuleDict()
        return nn.ModuleDict({"w": LearnedWeights(self._columns(pair, torch.device("cpu")))})

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        top = expect(signal, TopTokens)
        rows = chunk_rows(student.tokens, pack(student.scored), top)
        columns = self._columns(pair, student.device)
        weights = modules["w"](columns) if self.learnable_w else columns.weights
        if self.chunk == "mean":
            total = self._mean(student, top, rows, columns, weights).sum()
        else:
            comparison = Comparison(top, rows, columns, self.temperature)
            total = comparison.total(student, weights, self._compare)
        factor = self.temperature**2 if self.times_temperature_squared else 1.0
        return LossTerm(total=factor * total, units=rows.num_chunks)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return chunk_rows(tokens, scored, expect(signal, TopTokens)).num_chunks

    def _columns(self, pair: Pair, device: torch.device) -> Columns:
        projection = present(pair.projection, "p_kl")
        return columns_of(projection, device, normalised=self.chunk == "chain")

    def _compare(self, block: StudentBlock) -> Float[Tensor, "row"]:
        return cell_kl(block.teacher, block.cells, self.divergence)

    def _mean(
        self,
        student: Prediction,
        top: TopTokens,
        rows: ChunkRows,
        columns: Columns,
        weights: Float[Tensor, "entry"],
    ) -> Float[Tensor, "chunk"]:
        of_student = student_rows(rows, student)
        like = student.logprob_of_scored().detach()
        means = chunk_means(top, rows, columns.num_teacher, like)

        def read(
            logprobs: Float[Tensor, "row vocab"], ids: Int64[Tensor, "row listed"]
        ) -> Float[Tensor, "row listed"]:
            return listed_masses(tempered(logprobs, self.temperature), weights, columns, ids)

        ids = means.ids[of_student.chunk]
        mass = of_student.mean(student.map_rows(read, of_student.positions, ids))
        logs = (mass / (mass.sum(-1, keepdim=True) + EPSILON) + EPSILON).log()
        pairs = (logs, means.logprobs) if self.divergence == "reverse" else (means.logprobs, logs)
        return torch.where(means.valid, pairs[0].exp() * (pairs[0] - pairs[1]), 0).sum(-1)
