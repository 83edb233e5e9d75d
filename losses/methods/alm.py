"""Approximate likelihood matching: two tokenizers meet on chunks of the same bytes.

Both models say how likely each chunk is, and the divergence of these two coins is the loss. The
teacher sends two numbers a token. Only live chunks count: every token of both sides is scored.

Source: Minixhofer et al. 2025, arXiv:2503.20083.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import Field, PositiveFloat, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses import binarised
from losses.alignment.bias import load_pair_bias
from losses.alignment.chunks import Alignment, align, group_chunks, live_chunks, merge_chunks
from losses.alignment.coarser import space_chunks, unbiased_chunks
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import OPTIONS, LossTerm, Method, Pair, refuse_unused
from losses.document import Document
from losses.likelihoods import IdentifiedLikelihoods, border_logprob, identified, token_likelihoods
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import Signal, TokenLikelihoods, expect, pack

_TEMPERED: dict[str, Callable[..., Tensor]] = {
    "binary_kl": binarised.binary_kl,
    "binary_ce": binarised.binary_ce,
    "reverse_binary_kl": binarised.reverse_binary_kl,
    "abs_exp": binarised.abs_exp,
    "joschu_k2": binarised.joschu_k2,
    "joschu_k3": binarised.joschu_k3,
}
_LIMITS: dict[str, Callable[..., Tensor]] = {
    "abs": binarised.absolute,
    "binary_kl_temp_limit": binarised.binary_kl_temp_limit,
}


@dataclass(frozen=True, config=OPTIONS)
class Alm(Method):
    """A divergence between the likelihoods that both models give to chunks of common bytes.

    Args:
        divergence: see ``losses.binarised``. ``binary_kl`` has the gradient of the published
            ``binary_ce`` and is zero when the models agree.
        temperature: divides the chunk log-probabilities, 100 unless set, as published; gradients
            shrink as 1 / temperature. ``abs``, ``binary_kl_temp_limit`` and ``renyi`` have none.
        alpha: order of ``renyi``, 2 unless set.
        debias: multiply each chunk's probability by that of a border following it, so that what
            a tokenizer rules out after the chunk does not count (``append_space``).
        merge_threshold: join neighbouring chunks until the teacher's border probability after
            them exceeds this (published: 0.1); None for no joining.
        border: what follows: ``words``, a token that begins a word or a special one; ``end``, the
            end-of-text token (the published ``eos_as_space``).
        weighting: weight of a chunk: 1, its teacher tokens, or log(1 + its teacher tokens).
        chunks: which common chunks, before any joining by ``merge_threshold``: ``finest``, as
            published; ``space``, whole words, so that a chunk ends before a space; ``unbiased``,
            joined until neither tokenizer rules out continuations that the other allows, as
            ``bias_file`` says (appendix F; the teacher then sends 16 bytes a token).
        bias_file: absolute path of the precomputed biases, see ``losses.alignment.bias``.
        bias_threshold: bias up to which an ``unbiased`` chunk may end, 1e-4 unless set.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "chunks"
    bytes_per_token: ClassVar[str] = "12, or 16 with chunks: unbiased"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.LIKELIHOODS})

    divergence: Literal[
        "binary_kl",
        "binary_ce",
        "reverse_binary_kl",
        "abs_exp",
        "binary_kl_temp_limit",
        "abs",
        "renyi",
        "joschu_k2",
        "joschu_k3",
    ] = "binary_kl"
    temperature: PositiveFloat | None = None
    alpha: PositiveFloat | None = None
    debias: bool = True
    merge_threshold: float | None = Field(default=0.1, ge=0, le=1)
    border: Literal["words", "end"] = "words"
    weighting: Literal["chunk_count", "token_count", "log1p_token_count"] = "chunk_count"
    chunks: Literal["finest", "space", "unbiased"] = "finest"
    bias_file: str | None = None
    bias_threshold: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _every_option_counts(self) -> "Alm":
        if self.divergence not in _TEMPERED:
            refuse_unused(self.divergence, temperature=self.temperature)
        if self.divergence != "renyi":
            refuse_unused(self.divergence, alpha=self.alpha)
        if self.alpha == 1:
            raise ValueError('option "alpha" = 1 divides by zero; use divergence "binary_kl"')
        if self.border != "words" and not self._needs_borders:
            raise ValueError(
                'option "border" has no effect without debias and merge_threshold; leave it out'
            )
        self._check_bias_options()
        return self

    def _check_bias_options(self) -> None:
        given = {"bias_file": self.bias_file, "bias_threshold": self.bias_threshold}
        for name, value in given.items():
            if value is not None and self.chunks != "unbiased":
                raise ValueError(f'option "{name}" has no effect with chunks "{self.chunks}"')
        if self.chunks == "unbiased" and not Path(self.bias_file or "").is_absolute():
            raise ValueError(
                'chunks "unbiased" needs option "bias_file", the absolute path of the '
                "precomputed biases"
            )

    @property
    def _needs_borders(self) -> bool:
        return self.debias or self.merge_threshold is not None

    @property
    def needs_distributions(self) -> bool:
        return self._needs_borders

    @property
    def zero_at_identity(self) -> bool:
        return self.divergence != "binary_ce"

    def check(self, pair: Pair) -> None:
        for side, vocabulary in (("student", pair.student), ("teacher", pair.teacher)):
            if self._needs_borders and not len(self._border_ids(vocabulary)):
                raise ValueError(
                    f'method alm: the {side}\'s vocabulary has no token for border "{self.border}"'
                    "; choose another border or set debias: false and merge_threshold: null"
                )
        if self.bias_file is not None:
            load_pair_bias(self.bias_file).check(pair.teacher, pair.student)

    def signal(self, teacher: Prediction, document: Document) -> TokenLikelihoods:
        borders = self._border_ids(teacher.vocabulary) if self._needs_borders else None
        found = token_likelihoods(teacher, borders)
        return identified(found, teacher.tokens.ids) if self.chunks == "unbiased" else found

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        likelihoods = expect(signal, TokenLikelihoods)
        chunks = self._live(student.tokens, pack(student.scored), likelihoods, pair)
        logprobs = self._of_student(student, chunks, pair.student)
        teacher = torch.from_numpy(self.of_teacher(chunks, likelihoods)).to(logprobs)
        values = self._divergence(teacher, logprobs)
        total = (values * torch.from_numpy(self._weights(chunks)).to(logprobs)).sum()
        return LossTerm(total=total, units=chunks.num_chunks)

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return self._live(tokens, scored, expect(signal, TokenLikelihoods), pair).num_chunks

    def _live(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        teacher: TokenLikelihoods,
        pair: Pair,
    ) -> Alignment:
        """The chunks that count, joined where the teacher sees no border."""
        refuse_other_document(tokens, teacher)
        chunks = self._chunks(tokens, teacher, pair.student)
        live = live_chunks(chunks, scored, np.isfinite(teacher.logprob))
        closes = self.closes(teacher.border_logprob[chunks.teacher_last])
        return merge_chunks(chunks, group_chunks(live, closes))

    def closes(self, border_logprob: Float[np.ndarray, "chunk"]) -> Bool[np.ndarray, "chunk"]:
        """Whether a chunk with this log-probability (nats) of a border after it may end there."""
        if self.merge_threshold is None:
            return np.ones(len(border_logprob), dtype=bool)
        log_threshold = math.log(self.merge_threshold) if self.merge_threshold else -math.inf
        closes: Bool[np.ndarray, "chunk"] = border_logprob > log_threshold
        return closes

    def _chunks(
        self, tokens: Tokens, teacher: TokenLikelihoods, vocabulary: Vocabulary
    ) -> Alignment:
        finest = align(tokens.byte_ends, teacher.byte_ends)
        if self.chunks == "space":
            return space_chunks(finest, tokens, vocabulary)
        if self.chunks == "unbiased":
            ids = expect(teacher, IdentifiedLikelihoods).ids
            bias = load_pair_bias(str(self.bias_file))
            threshold = 1e-4 if self.bias_threshold is None else self.bias_threshold
            return unbiased_chunks(finest, tokens, vocabulary, ids, bias, threshold)
        return finest

    def of_teacher(
        self, chunks: Alignment, teacher: TokenLikelihoods
    ) -> Float64[np.ndarray, "chunk"]:
        """Each chunk's log-probability (nats), with a border after it if that is asked for."""
        inside = chunks.teacher_chunk >= 0
        logprobs = np.zeros(chunks.num_chunks)
        np.add.at(logprobs, chunks.teacher_chunk[inside], teacher.logprob[inside])
        return logprobs + teacher.border_logprob[chunks.teacher_last] if self.debias else logprobs

    def _of_student(
        self, student: Prediction, chunks: Alignment, vocabulary: Vocabulary
    ) -> Float[Tensor, "chunk"]:
        device = student.device
        chunk = torch.from_numpy(chunks.student_chunk).to(device)[student.scored_positions]
        own = student.logprob_of_scored()
        logprobs = own.new_zeros(chunks.num_chunks).index_add(0, chunk[chunk >= 0], own[chunk >= 0])
        if not self.debias:
            return logprobs
        ids = torch.tensor(self._border_ids(vocabulary), device=device)
        last = torch.from_numpy(chunks.student_last).to(device)
        return logprobs + student.map_rows(lambda table: border_logprob(table, ids), last)

    def _divergence(
        self, teacher: Float[Tensor, "chunk"], student: Float[Tensor, "chunk"]
    ) -> Float[Tensor, "chunk"]:
        if self.divergence == "renyi":
            return binarised.renyi(teacher, student, self.alpha or 2.0)
        if self.divergence in _LIMITS:
            return _LIMITS[self.divergence](teacher, student)
        return _TEMPERED[self.divergence](teacher, student, self.temperature or 100.0)

    def _weights(self, chunks: Alignment) -> Float64[np.ndarray, "chunk"]:
        inside = chunks.teacher_chunk[chunks.teacher_chunk >= 0]
        counts = np.bincount(inside, minlength=chunks.num_chunks).astype(np.float64)
        if self.weighting == "token_count":
            return counts
        return np.log1p(counts) if self.weighting == "log1p_token_count" else np.ones_like(counts)

    def _border_ids(self, vocabulary: Vocabulary) -> Int64[np.ndarray, "border"]:
        if self.border == "words":
            return vocabulary.border_ids
        roles = vocabulary.roles
        end = "end" if "end" in roles.values() else "end_of_turn"
        return np.asarray([index for index, role in roles.items() if role == end], dtype=np.int64)


def refuse_other_document(tokens: Tokens, teacher: TokenLikelihoods) -> None:
    """Raise ValueError if the two sides end at different bytes."""
    ours, theirs = (int(ends.max(initial=0)) for ends in (tokens.byte_ends, teacher.byte_ends))
    if ours != theirs:
        raise ValueError(
            f"method alm: the teacher's tokens end at byte {theirs}, the student's at byte {ours}; "
            "expected the same document on both sides"
        )
