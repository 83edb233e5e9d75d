"""MinED: the teacher's likely tokens become the student's nearest ones, where both write the same.

Both sides' scored tokens are matched by dynamic time warping over edit distances. Where one token
of each side is matched with the other alone and they are spelled alike, the teacher's row is
written in the student's tokens: each of its likely tokens becomes the one of the same bytes, else
the nearest by edit distance.

By default the rows that predict the two tokens are compared, tokens that meet add up, and what has
no near token is one cell together with all that is not listed, so the loss is a KL, and zero for
two models that agree. The published forms match the tokens read last, keep one of several that
meet, leave the rest out, and teach a single token where nothing matches.

Source: Wan et al. 2024, arXiv:2401.10491 (FuseLLM), section 3.2; Zhang et al. 2024,
arXiv:2406.17328 (DSKD), its baseline MinED.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.chunk_distributions.cell_divergence import cell_kl
from losses.chunk_distributions.columns import present
from losses.chunk_distributions.top_tokens import Precision, tempered, top_tokens
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import Signal, TopTokens, expect, pack
from losses.token_matching.mapped_rows import (
    Listed,
    MappedRows,
    PrecededTokens,
    alone,
    first_of_each,
    one_to_one,
    summed,
    with_single_tokens,
)
from losses.token_matching.nearest_tokens import NearestTokens, nearest_students
from losses.token_matching.spelling import edit_distances, spelled, spellings
from losses.token_matching.time_warping import Path, cheapest_path
from losses.token_matching.unlisted import unlisted_mass

THRESHOLD = 0.3
"""Default limit of a near token's distance."""


@dataclass(frozen=True, config=OPTIONS)
class Mined(Method):
    """KL between the teacher's row in the student's tokens and the student's row.

    Args:
        k: teacher tokens listed beside the realised one; 6k + 16 bytes a token.
        match: ``hard``, rows of tokens that are spelled alike but for spaces; ``soft``, also those
            of a token and its nearest one.
        threshold: a near token's edit distance over the sum of both lengths is below this, 0.3
            unless set; published: no limit.
        temperature: divides both models' logits; DSKD has 2.
        times_temperature_squared: multiply by the squared temperature.
        precision: of the listed log-probabilities on the wire.
        published: ``dskd`` or ``fusellm``. Where nothing matches, the former teaches the next
            token alone, the latter the one that was read last; of several tokens that meet the
            former keeps the lowest id, the latter the likeliest.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "tokens"
    bytes_per_token: ClassVar[str] = "6k + 16: 616 at k = 100"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS, Need.TOP_K})
    needs_projection: ClassVar[bool] = True

    k: PositiveInt = 100
    match: Literal["hard", "soft"] = "hard"
    threshold: NonNegativeFloat | None = None
    temperature: PositiveFloat = 1.0
    times_temperature_squared: bool = False
    precision: Precision = "float16"
    published: Literal["dskd", "fusellm"] | None = None

    @model_validator(mode="after")
    def _every_option_counts(self) -> "Mined":
        if self.times_temperature_squared and self.temperature == 1:
            raise ValueError(
                'option "times_temperature_squared" has no effect with temperature 1; leave it out'
            )
        if self.published and self.threshold is not None:
            raise ValueError('option "threshold" has no effect with published; leave it out')
        return self

    @property
    def needs_distributions(self) -> bool:
        return self.temperature != 1

    @property
    def zero_at_identity(self) -> bool:
        return self.published is None

    def signal(self, teacher: Prediction, document: Document) -> TopTokens:
        top = top_tokens(teacher, self.k, temperature=self.temperature, precision=self.precision)
        if self.published is None:
            return top
        before = teacher.tokens.ids[pack(teacher.scored_positions) - 1]
        return PrecededTokens(**vars(top), before=before.astype(np.int32))

    def ahead(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> MappedRows:
        """All but the student's own values."""
        top = expect(signal, TopTokens)
        places = np.flatnonzero(scored)
        if not len(places) or not len(top.realised):
            places = places[:0]
            return _rows(top, places, Listed.of(top, places))
        read = self._as_published if self.published else self._as_meant
        return read(tokens, places, top, pair)

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        rows = expect(signal, MappedRows)
        parts = student.parts(np.ones(len(rows.positions), dtype=np.int64))
        total = student.hidden.sum() * 0
        for part in parts:
            total = total + self._part(student, rows, part)
        factor = self.temperature**2 if self.times_temperature_squared else 1.0
        return LossTerm(total=factor * total, units=len(rows.positions))

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return len(expect(signal, MappedRows).positions)

    def _part(self, student: Prediction, rows: MappedRows, part: slice) -> Float[Tensor, ""]:
        arrays = (rows.positions, rows.ids, rows.mass, rows.rest)
        tensors = [torch.from_numpy(array[part]).to(student.device) for array in arrays]
        positions, ids, mass, rest = tensors

        def read(table: Float[Tensor, "any vocab"], numbers: Int64[Tensor, "row"]) -> Tensor:
            logprobs = tempered(table.index_select(0, numbers), self.temperature)
            listed = logprobs.gather(-1, ids)
            if self.published:
                return _kl_of_listed(mass.to(listed), listed)
            left = unlisted_mass(logprobs, ids, mass > -torch.inf)
            return _kl_of_cells(mass.to(listed), rest.to(listed), listed, left)

        return student.map_table(read, positions).sum()

    def _as_meant(
        self, tokens: Tokens, places: Int64[np.ndarray, "scored"], top: TopTokens, pair: Pair
    ) -> MappedRows:
        nearest = self._nearest(pair)
        ours = tokens.ids[places]
        path = _path(pair, top.realised, ours)
        kept = one_to_one(path) & self._alike(pair, nearest, top.realised, ours, path)
        listed = Listed.of(top, path.teacher[kept])
        target = summed(listed, nearest.of(listed.ids))
        return _rows(top, places[path.student[kept]] - 1, target)

    def _as_published(
        self, tokens: Tokens, places: Int64[np.ndarray, "scored"], top: TopTokens, pair: Pair
    ) -> MappedRows:
        nearest = self._nearest(pair)
        before, ours = expect(top, PrecededTokens).before, tokens.ids[places - 1]
        path = _path(pair, before, ours)
        kept = alone(path.student) & self._alike(pair, nearest, before, ours, path)
        listed = Listed.of(top, path.teacher[kept])
        by_id = self.published == "dskd"
        listed = listed.by_id if by_id else listed.descending.first(self.k)
        target = first_of_each(listed, nearest.of(listed.ids))
        single = tokens.ids[places] if by_id else ours
        return _rows(top, places - 1, with_single_tokens(target, path.student[kept], single))

    def _nearest(self, pair: Pair) -> NearestTokens:
        limit = THRESHOLD if self.threshold is None else self.threshold
        projection = present(pair.projection, "mined")
        return nearest_students(
            pair.teacher, pair.student, projection, None if self.published else limit
        )

    def _alike(
        self,
        pair: Pair,
        nearest: NearestTokens,
        theirs: Int[np.ndarray, "teacher_token"],
        ours: Int64[np.ndarray, "student_token"],
        path: Path,
    ) -> Bool[np.ndarray, "step"]:
        """True for a step whose tokens match."""
        teacher, student = theirs[path.teacher], ours[path.student]
        words = (spellings(pair.teacher), spellings(pair.student))
        pairs = zip(spelled(words[0], teacher), spelled(words[1], student), strict=True)
        found = np.array([one == other for one, other in pairs], dtype=bool)
        return found | (nearest.of(teacher) == student) if self.match == "soft" else found


def _path(
    pair: Pair,
    theirs: Int[np.ndarray, "teacher_token"],
    ours: Int64[np.ndarray, "student_token"],
) -> Path:
    texts = (spelled(spellings(pair.teacher), theirs), spelled(spellings(pair.student), ours))
    return cheapest_path(edit_distances(*texts))


def _rows(top: TopTokens, positions: Int64[np.ndarray, "row"], target: Listed) -> MappedRows:
    mass, rest = target.mass.astype(np.float32), target.tail.astype(np.float32)
    return MappedRows(top.byte_ends, top.logprob, positions, target.ids, mass, rest)


def _kl_of_cells(
    mass: Float[Tensor, "row listed"],
    rest: Float[Tensor, "row"],
    logprobs: Float[Tensor, "row listed"],
    left: Float[Tensor, "row"],
) -> Float[Tensor, "row"]:
    """KL with all other tokens as one cell, of which the student has ``left``."""
    probs = torch.where(mass == -torch.inf, 0, logprobs.exp())
    cells = torch.cat([probs, left.unsqueeze(-1)], dim=-1)
    return cell_kl(torch.cat([mass, rest.unsqueeze(-1)], dim=-1), cells, "forward")


def _kl_of_listed(
    mass: Float[Tensor, "row listed"],
    logprobs: Float[Tensor, "row listed"],
) -> Float[Tensor, "row"]:
    """KL of the listed tokens, made a distribution, and the student's whole row."""
    target = mass.log_softmax(-1)
    terms = target.exp() * (torch.where(mass == -torch.inf, 0, target) - logprobs)
    return torch.where(mass == -torch.inf, 0, terms).sum(-1)
