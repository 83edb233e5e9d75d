"""CDM: tokens matched by context-weighted edit distance, vocabularies matched where they are used.

Both sides' scored tokens are matched by dynamic time warping over edit distances, where a mismatch
is dearer at tokens of high entropy; rows along the path are averaged. At each merged position the
likeliest tokens of both models look for their partners: exact ones, else a likely token of the
other model that is spelled almost alike. The divergence runs over the pairs.

By default rows that predict a matched token are compared, byte by byte spelled, partners are one
to one, and the divergence is a KL; ``published`` does what the public code does.

Source: Contextual Dynamical Mapping, ACL Findings 2025; pppa2019/ContexualDynamicMapping.
"""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.chunk_distributions.columns import present
from losses.chunk_distributions.top_tokens import Precision
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import Signal, expect
from losses.token_matching.context import context_factors
from losses.token_matching.context_tokens import (
    ContextLogits,
    ContextTokens,
    Matchable,
    context_logits,
    context_tokens,
    normalisers,
)
from losses.token_matching.dynamic_mapping import (
    Likely,
    exact_partners,
    partners,
    published_partners,
)
from losses.token_matching.merged_student import mean_logprobs, merged_largest, student_rows
from losses.token_matching.merged_teacher import merge_normaliser, merge_teacher
from losses.token_matching.merging import Members, merged_positions
from losses.token_matching.pair_divergence import Pairs, pair_kl, stored_kl
from losses.token_matching.spelling import edit_distances, spelled, spellings
from losses.token_matching.time_warping import cheapest_path


@dataclass(frozen=True, config=OPTIONS)
class Cdm(Method):
    """KL over dynamically mapped tokens at merged positions.

    Args:
        k: likeliest tokens of each model that look for partners; 6k + 20 bytes a token.
        threshold: tokens are partners below this edit distance over the sum of their lengths; 0
            leaves exact partners only.
        temperature: divides both models' logits; the published runs have 0.8.
        times_temperature_squared: multiply by the squared temperature.
        precision: of the listed log-probabilities on the wire.
        published: rows that follow a matched token, spelling by characters, the stored choice of
            partners and the stored sum, which is no divergence; see ``pair_divergence``.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "tokens"
    bytes_per_token: ClassVar[str] = "6k + 20: 620 at k = 100"
    metric_names: ClassVar[tuple[str, ...]] = ("positions", "lost")
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS, Need.TOP_K, Need.DISTRIBUTIONS})
    needs_projection: ClassVar[bool] = True

    k: PositiveInt = 100
    threshold: NonNegativeFloat = 0.3
    temperature: PositiveFloat = 1.0
    times_temperature_squared: bool = False
    precision: Precision = "float16"
    published: bool = False

    @model_validator(mode="after")
    def _every_option_counts(self) -> "Cdm":
        if self.times_temperature_squared and (self.temperature == 1 or self.published):
            raise ValueError(
                'option "times_temperature_squared" has no effect with temperature 1 or published; '
                "leave it out"
            )
        return self

    @property
    def zero_at_identity(self) -> bool:
        return not self.published

    @property
    def tells_likelihoods(self) -> bool:
        return not self.published

    def signal(self, teacher: Prediction, document: Document) -> ContextTokens:
        read = context_logits if self.published else context_tokens
        return read(teacher, self.k, self.precision)

    def ahead(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> Matchable:
        """Edit distances of all scored tokens; the path needs the student's entropies too."""
        sent = expect(signal, ContextTokens)
        sides = ((pair.teacher, sent.realised), (pair.student, tokens.ids[scored]))
        texts = [
            spelled(spellings(vocabulary, by_character=self.published), ids)
            for vocabulary, ids in sides
        ]
        cost = edit_distances(texts[0], texts[1]).clip(max=np.iinfo(np.uint16).max)
        return Matchable(sent, cost.astype(np.uint16))

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        matchable = expect(signal, Matchable)
        units = self._units(matchable)
        if not units:
            nothing = student.hidden.new_zeros(())
            metrics = dict.fromkeys(self.metric_names, nothing)
            return LossTerm(student.hidden.sum() * 0, 0, metrics)
        pairs = self._pairs(student, matchable, pair)
        if self.published:
            values = stored_kl(pairs, self.temperature)
        else:
            values = pair_kl(pairs, self.temperature)
        factor = self.temperature**2 if self.times_temperature_squared else 1.0
        metrics = {
            "positions": values.new_tensor(float(len(values))),
            "lost": (len(values) - pairs.num_compared).to(values),
        }
        return LossTerm(factor * units * values.mean(), units, metrics)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        """The student's scored tokens: how many positions are left depends on its forward pass."""
        return self._units(expect(signal, Matchable))

    def _units(self, matchable: Matchable) -> int:
        num_teacher, num_student = matchable.cost.shape
        return num_student if num_teacher else 0

    def _pairs(self, student: Prediction, matchable: Matchable, pair: Pair) -> Pairs:
        positions = student.scored_positions - (0 if self.published else 1)
        rows = student_rows(student, positions, self.k)
        of_teacher, of_student = _merged(matchable, rows.entropy)
        teacher = merge_teacher(matchable.sent, of_teacher, len(pair.teacher))
        theirs = teacher.largest(self.k)
        ours = merged_largest(student, positions, of_student, rows.ids)
        ours = np.pad(ours, ((0, 0), (0, self.k - ours.shape[1])), constant_values=-1)
        to_student, to_teacher = self._partners(pair, theirs, ours)
        teacher_ids = np.concatenate([theirs, to_teacher], axis=1)
        student_ids = np.concatenate([to_student, ours], axis=1)
        values = mean_logprobs(student, positions, of_student, student_ids.clip(min=0))
        targets = torch.from_numpy(teacher.at(teacher_ids)).to(values)
        if self.published:
            sent = expect(matchable.sent, ContextLogits)
            lacking = merge_normaliser(sent.normaliser.astype(np.float64), of_teacher)
            targets = targets + torch.from_numpy(lacking).to(values).unsqueeze(-1)
            values = values + _mean_normalisers(student, positions, of_student)
        paired = torch.from_numpy((teacher_ids >= 0) & (student_ids >= 0)).to(values.device)
        shape = (len(ours), 2, self.k)
        return Pairs(targets.view(shape), values.view(shape), paired.view(shape))

    def _partners(
        self,
        pair: Pair,
        theirs: Int64[np.ndarray, "position k"],
        ours: Int64[np.ndarray, "position k"],
    ) -> tuple[Int64[np.ndarray, "position k"], Int64[np.ndarray, "position k"]]:
        """Student partners of the teacher's likeliest tokens, teacher partners of the student's."""
        exact = exact_partners(present(pair.projection, "cdm"))
        teacher = Likely(theirs, exact.to_student, pair.teacher, self.published)
        student = Likely(ours, exact.to_teacher, pair.student, self.published)
        find = published_partners if self.published else partners
        return (
            find(teacher, student, self.threshold),
            find(student, teacher, self.threshold),
        )


def _merged(matchable: Matchable, entropy: Float64[np.ndarray, "row"]) -> tuple[Members, Members]:
    """Both sides' members along the cheapest path, by the context of both."""
    ours = context_factors(entropy)
    theirs = context_factors(matchable.sent.entropy.astype(np.float64))
    return merged_positions(cheapest_path(matchable.cost * theirs[:, None] * ours))


def _mean_normalisers(
    student: Prediction, positions: Int64[Tensor, "row"], members: Members
) -> Float[Tensor, "position 1"]:
    lacking = normalisers(student, positions)
    weight, position, row = (
        torch.from_numpy(array).to(lacking.device)
        for array in (members.weight, members.position, members.token)
    )
    sums = lacking.new_zeros(members.num_positions)
    return sums.index_add(0, position, lacking[row] * weight.to(lacking)).unsqueeze(-1)
