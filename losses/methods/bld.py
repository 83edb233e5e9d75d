"""BLD: the teacher's next-byte distributions, matched by the student on its own tokens' bytes.

Every byte of the document has one distribution, whatever tokens it was read as, so nothing needs
to be aligned. The student keeps its tokenizer. Either its own next-token distributions are summed
to distributions over bytes (``head: none``), or extra heads on its states predict the bytes.

Source: BLD, Singh et al. 2026, arXiv:2604.07466, sections 3.1 and 3.2, equations 3 and 5 (read
second hand); summing over covers: Vieira et al. 2024, arXiv:2412.03719.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.byte_distributions import (
    Converter,
    byte_positions,
    convert,
    eot_logprobs,
    eot_rows,
    is_lost,
    on_path_logprobs,
    one_path_logprobs,
)
from losses.byte_students.comparison import byte_cross_entropy, byte_kl, ruled_out
from losses.byte_students.heads import ConditionedHead, ParallelHead, symbol_logprobs
from losses.byte_students.slots import Places, Slots, of_bytes, teacher_rows, token_contents
from losses.byte_students.tempering import tempered
from losses.document import Document
from losses.needs import Need
from losses.prediction import Prediction
from losses.signals import ByteDistributions, Signal, TokenByteDistributions, pack

NUM_SLOTS = 10
"""Bytes of a token that heads predict, as published."""
WEIGHTS = {"none": (0.0, 1.0), "parallel": (1.0, 0.1), "conditioned": (1.0, 0.1)}
"""Weights of the byte cross-entropy and of the KL by head; those of the heads as published."""

Predict: TypeAlias = Callable[[float], Float[Tensor, "slot symbol"]]


@dataclass(frozen=True, config=OPTIONS)
class Bld(Method):
    """KL and cross-entropy between distributions of the next byte.

    Args:
        head: what predicts bytes. ``none``, the student's own next-token distributions: it trains
            what the student is used with, and leaves nothing to remove. ``parallel``, published:
            one linear map for each byte of a token. ``conditioned``: sees the token's bytes before.
        converter: how the teacher's tokens become bytes. ``one_path``, along its own tokens;
            ``on_path``, also tokens that would have gone on; ``branches``, also other tokens that
            fork off once; ``beam``, published; ``eot``, the exact chain rule with an end of token.
        epsilon: least share of what ``branches`` or ``beam`` follow; 0.01 unless set.
        beam: states that ``beam`` keeps; 10 unless set.
        marginal: how ``head: none`` sums the student's tokens: ``one_path`` or ``on_path``; unless
            set ``one_path`` for that converter, else ``on_path``.
        ce_weight: of the cross-entropy of the text's bytes. Unless set 1, as published; 0 without
            a head, since the tokens' own cross-entropy is in the mixture.
        kl_weight: of KL(teacher || student). Unless set 0.1, as published; 1 without a head.
        reduction: what a unit is: ``slot_mean``, a byte; ``token_sum``, a token with all its
            bytes. Counts where losses are divided by units.
        temperature: divides both models' logits in the KL, which is multiplied by its square.
        slots: bytes of a token that heads predict, 10 unless set; ``none`` reads all of them.
        end_slot: heads also predict the end of a token after its last byte (``converter: eot``).
        head_learning_rate: peak learning rate of the heads; the student's unless set.
        export_head: save the heads beside the exported model, in ``method_modules.safetensors``.

    Raises:
        ValueError: an option was set that has no effect.
    """

    unit: ClassVar[str] = "bytes"
    bytes_per_token: ClassVar[str] = "518 × bytes, about 2,300; 521 × bytes + 521 with eot"
    metric_names: ClassVar[tuple[str, ...]] = ("lost",)
    reads: ClassVar[frozenset[Need]] = frozenset({Need.DISTRIBUTIONS})

    head: Literal["none", "parallel", "conditioned"] = "none"
    converter: Literal["one_path", "on_path", "branches", "beam", "eot"] = "branches"
    epsilon: float | None = Field(default=None, ge=0, lt=1)
    beam: PositiveInt | None = None
    marginal: Literal["one_path", "on_path"] | None = None
    ce_weight: NonNegativeFloat | None = None
    kl_weight: NonNegativeFloat | None = None
    reduction: Literal["slot_mean", "token_sum"] = "slot_mean"
    temperature: PositiveFloat = 1.0
    slots: PositiveInt | None = None
    end_slot: bool = False
    head_learning_rate: PositiveFloat | None = None
    export_head: bool = False

    @model_validator(mode="after")
    def _every_option_counts(self) -> "Bld":
        chain, bare = self.converter == "eot", self.head == "none"
        reads = {
            "epsilon": (self.converter in ("branches", "beam"), "converter branches or beam"),
            "beam": (self.converter == "beam", "converter beam"),
            "marginal": (bare and not chain, "head none and a converter other than eot"),
            "slots": (not bare, "head parallel or conditioned"),
            "head_learning_rate": (not bare, "head parallel or conditioned"),
            "export_head": (not bare, "head parallel or conditioned"),
            "end_slot": (chain and not bare, "converter eot and head parallel or conditioned"),
        }
        for name, (is_read, reader) in reads.items():
            value = getattr(self, name)
            if not is_read and value is not None and value is not False:
                raise ValueError(f'option "{name}" is read only with {reader}; leave it out')
        if not any(self.weights):
            raise ValueError('"ce_weight" and "kl_weight" are both 0: the loss would be 0; set one')
        if self.temperature != 1 and not self.weights[1]:
            raise ValueError('option "temperature" has no effect with kl_weight 0; leave it out')
        return self

    @property
    def weights(self) -> tuple[float, float]:
        """Of the cross-entropy and of the KL."""
        ce, kl = WEIGHTS[self.head]
        return (
            ce if self.ce_weight is None else self.ce_weight,
            kl if self.kl_weight is None else self.kl_weight,
        )

    @property
    def needs_continuations(self) -> bool:
        return self._converter.needs_continuations

    @property
    def zero_at_identity(self) -> bool:
        """True where the student's tokens are summed as the teacher's are, and only compared."""
        alike = self.converter in ("eot", self._marginal)
        return self.head == "none" and alike and self.weights[0] == 0

    @property
    def tells_likelihoods(self) -> bool:
        return False

    @property
    def trains_modules(self) -> bool:
        return self.head != "none"

    @property
    def modules_learning_rate(self) -> float | None:
        return self.head_learning_rate

    @property
    def exports_modules(self) -> bool:
        return self.export_head

    def check(self, pair: Pair) -> None:
        if self.converter == "eot" and self.head == "none" and not pair.has_one_vocabulary:
            raise ValueError(
                'method bld: "converter: eot" says where the teacher\'s tokens end, which another '
                "vocabulary's tokens do not share; use converter branches, or a head"
            )

    def signal(
        self, teacher: Prediction, document: Document
    ) -> ByteDistributions | TokenByteDistributions:
        return convert(tempered(teacher, self.temperature), document, self._converter)

    def check_widths(self, pair: Pair) -> None:
        if self.head != "none":
            self._width(pair)

    def modules(self, pair: Pair) -> nn.ModuleDict:
        if self.head == "none":
            return nn.ModuleDict()
        kind = ParallelHead if self.head == "parallel" else ConditionedHead
        return nn.ModuleDict({"head": kind(self._width(pair), self._num_slots)})

    def _width(self, pair: Pair) -> int:
        if pair.student_width is None:
            raise ValueError(
                f"method bld builds its {self.head} heads on the student's hidden states, whose "
                "width is not known; expected it as hidden_size in config.json"
            )
        return pair.student_width

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        known = of_bytes(signal)
        slots = self._slots(student.tokens, pack(student.scored), known, pair.student)
        if self.head == "none":
            predict = self._bare(student, slots)
        else:
            predict = self._headed(student, slots, modules["head"], known.logprobs.shape[1])
        ce_weight, kl_weight = self.weights
        at_temperature = predict(self.temperature)
        total = at_temperature.new_zeros(())
        if kl_weight:
            teacher = teacher_rows(known, slots).to(at_temperature)
            kl = byte_kl(teacher, at_temperature)
            if self.head == "none":
                kl = kl - ruled_out(teacher, at_temperature)
            total = total + kl_weight * self.temperature**2 * kl.sum()
        if ce_weight:
            plain = at_temperature if self.temperature == 1 else predict(1.0)
            target = torch.from_numpy(slots.target).to(student.device)
            total = total + ce_weight * byte_cross_entropy(plain, target).sum()
        lost = is_lost(known.logprobs[slots.row], slots.target).sum()
        return LossTerm(total, self._units(slots), {"lost": total.new_tensor(float(lost))})

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return self._units(self._slots(tokens, scored, signal, pair.student))

    @property
    def _converter(self) -> Converter:
        epsilon = 0.01 if self.epsilon is None else self.epsilon
        return Converter(name=self.converter, epsilon=epsilon, beam=self.beam or 10)

    @property
    def _marginal(self) -> str:
        return self.marginal or ("one_path" if self.converter == "one_path" else "on_path")

    @property
    def _num_slots(self) -> int:
        return self.slots or NUM_SLOTS

    def _units(self, slots: Slots) -> int:
        return slots.num_tokens if self.reduction == "token_sum" else len(slots)

    def _slots(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        signal: Signal,
        vocabulary: Vocabulary,
    ) -> Slots:
        if self.converter == "eot":
            rows = eot_rows(tokens, scored, vocabulary)
            ours = Places(rows.positions, rows.closes)
        else:
            ours = Places.of_bytes(byte_positions(tokens, scored, vocabulary))
        slots = Slots.match(Places.of(signal), ours, tokens, scored, vocabulary)
        if self.head == "none":
            return slots
        return slots.where((slots.place < self._num_slots) & (self.end_slot | ~slots.closes))

    def _bare(self, student: Prediction, slots: Slots) -> Predict:
        """The student's tokens summed to bytes."""
        _refuse_uneven_calls(
            student, on_path=self.converter != "eot" and self._marginal == "on_path"
        )
        of_marginal = one_path_logprobs if self._marginal == "one_path" else on_path_logprobs
        function = eot_logprobs if self.converter == "eot" else of_marginal
        own = torch.from_numpy(slots.own).to(student.device)
        return lambda temperature: function(tempered(student, temperature))[own]

    def _headed(
        self, student: Prediction, slots: Slots, head: nn.Module, num_symbols: int
    ) -> Predict:
        """What the head says; called once a document, on no rows if there are no slots."""
        tokens, index = np.unique(slots.token, return_inverse=True)
        written = token_contents(student.tokens.ids[tokens], student.vocabulary, self._num_slots)
        arrays = (tokens - 1, written, index, slots.place)
        rows, contents, *at = (torch.from_numpy(array).to(student.device) for array in arrays)
        logits = head(student.hidden[rows], contents)[tuple(at)]
        return lambda temperature: symbol_logprobs(logits / temperature, num_symbols)


def _refuse_uneven_calls(student: Prediction, *, on_path: bool) -> None:
    """Covers on the path read rows before unscored tokens, for which the head runs once more.

    Raises:
        ValueError: under ZeRO-3, where all ranks must call the head equally often.
    """
    sharded = any(hasattr(weight, "ds_id") for weight in student.head.linear.parameters())
    if sharded and on_path and not bool(student.scored[1:].all()):
        raise ValueError(
            "method bld: a document has unscored parts, whose rows marginal on_path reads by "
            "another call of the head, which under ZeRO-3 every rank would have to make; expected "
            "marginal one_path, or deepspeed.zero_optimization.stage up to 2"
        )
